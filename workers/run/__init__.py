"""`make run`: the process manager that runs the Procfile on one machine, with an embedded Valkey."""
