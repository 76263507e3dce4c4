"""The program inside a Python worker: a supervisor, a template process, and the child that runs user code."""
