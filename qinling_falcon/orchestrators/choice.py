"""Which orchestrator makes the workers: the setting `ORCHESTRATOR`.

Another orchestrator needs its name in the setting's type, and a case here.
"""

from __future__ import annotations

from qinling_falcon.orchestrators.base import Orchestrator
from qinling_falcon.orchestrators.image_runs import ImageRuns
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


def can_run_images(settings: Settings) -> bool:
    """Whether this orchestrator can run functions from images."""
    return settings.orchestrator == "kubernetes"


def make_image_runs(settings: Settings, holder: str) -> ImageRuns:
    """Make what runs functions from images, in a process that runs executions.

    The first call in a process imports the client of Kubernetes, which takes a quarter of a second.

    Args:
        settings: the settings of an orchestrator that can run images.
        holder: this process, as the pool knows it.

    Raises:
        SettingsError: the orchestrator's server can't be reached with these settings.
    """
    from qinling_falcon.orchestrators.kubernetes.image_runs import KubernetesImageRuns

    return KubernetesImageRuns(settings, holder)
