"""`python -m qinling_falcon.orchestrators.process.doctor`: what isolation this host gives, and what is missing."""

from __future__ import annotations

import sys

from qinling_falcon.orchestrators.process.isolation import demand, examine
from qinling_falcon.settings import Settings, SettingsError


def main() -> int:
    """Print the table; 1 when the settings demand what this host does not have."""
    try:
        settings = Settings.from_env()
        isolation = examine(settings)
        for name, available, note in isolation.features:
            sys.stdout.write(f"{name:<18}{'yes' if available else 'MISSING':<9}{note}\n")
        sys.stdout.write(f"workers run in: {isolation.form}\n")
        demand(settings, isolation)
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
