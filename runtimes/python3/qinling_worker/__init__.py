"""The program inside a Python worker: a supervisor, a template process, and the child that runs user code."""

import sys

LOADED_AT_START = frozenset(sys.modules)  # the modules that Python imports by itself
