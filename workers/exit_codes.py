"""How the `release` step says which part of it failed."""

DATABASE_FAILED = 1
REGISTRATION_FAILED = 2
