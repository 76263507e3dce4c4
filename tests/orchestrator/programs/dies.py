"""A worker program that ends before it answers."""

import sys

sys.exit("this worker has no will to live")
