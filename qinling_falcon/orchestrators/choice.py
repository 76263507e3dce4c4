"""Which orchestrator makes the workers: the setting `ORCHESTRATOR`.

Another orchestrator needs its name in the setting's type, and a case here.
"""

from __future__ import annotations

from qinling_falcon.orchestrators.base import Orchestrator
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.settings import Settings


def make_orchestrator(settings: Settings) -> Orchestrator:
    """Make the orchestrator that the settings name. It may end workers of an earlier manager.

    Raises:
        SettingsError: a setting of this orchestrator can't be used on this host.
        AlreadyRunning: another live manager has its workers.
    """
    match settings.orchestrator:
        case "process":
            return ProcessOrchestrator(settings)
        case "kubernetes":
            # Its client takes a quarter of a second and 40 MB, which other installations need not have.
            from qinling_falcon.orchestrators.kubernetes.orchestrator import KubernetesOrchestrator

            return KubernetesOrchestrator(settings)
