"""The exit statuses of the `release` step, which say which part of it failed."""

DATABASE_FAILED = 1
REGISTRATION_FAILED = 2
SECRETS_UNREADABLE = 3
