"""`python -m qinling_falcon.orchestrators.process.doctor`: what isolation this host gives, and what is missing."""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

from qinling_falcon.orchestrators.process.isolation import Feature, demand, examine
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.settings import Settings, SettingsError
from qinling_falcon.settings_environment import read_settings


def main() -> int:
    """Print the table; 1 when the settings demand what this host does not have."""
    try:
        settings = read_settings()
        isolation = examine(settings)
        _show(isolation.features)
        demand(settings, isolation)
        _show([_try_zygote(settings)])
        sys.stdout.write(f"workers run in: {isolation.form}\n")
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _show(features: list[Feature]) -> None:
    for name, available, note in features:
        sys.stdout.write(f"{name:<18}{'yes' if available else 'MISSING':<9}{note}\n")


def _try_zygote(settings: Settings) -> Feature:
    """Start an orchestrator with a VAR_DIR of its own, beside the service that may be running; it tries the zygotes."""
    with tempfile.TemporaryDirectory() as folder:
        orchestrator = ProcessOrchestrator(dataclasses.replace(settings, var_dir=Path(folder)))
        orchestrator.detach()
        return orchestrator.zygote


if __name__ == "__main__":
    sys.exit(main())
