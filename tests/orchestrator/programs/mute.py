"""A worker program that never answers, with a process in a session of its own."""

import os
import time

if os.fork() == 0:
    os.setsid()
time.sleep(600)
