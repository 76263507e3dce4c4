"""How the API server is reached: from a kubeconfig file, explicit settings, or the service account of this pod."""

from __future__ import annotations

from pathlib import Path

from kubernetes import config
from kubernetes.client.configuration import Configuration

from qinling_falcon.settings import Settings, SettingsError

# Watches, starts and ends run at once; each needs a connection.
_CONNECTIONS = 64


def make_configuration(settings: Settings) -> Configuration:
    """Make the configuration of the client. The first of these three is used: explicit settings, a file, this pod.

    Raises:
        SettingsError: none of them is there, or it can't be read.
    """
    configuration = Configuration()
    if settings.kubernetes_api_url is not None:
        _use_settings(configuration, settings)
    elif settings.kubernetes_config is not None:
        try:
            config.load_kube_config(
                str(settings.kubernetes_config),
                context=settings.kubernetes_context,
                client_configuration=configuration,
                persist_config=False,
            )
        except (config.ConfigException, OSError, ValueError, TypeError, KeyError) as error:
            raise SettingsError(
                f"KUBERNETES_CONFIG={settings.kubernetes_config}: expected a kubeconfig file ({error})"
            ) from error
    else:
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException as error:
            raise SettingsError(
                "ORCHESTRATOR=kubernetes: expected KUBERNETES_CONFIG or KUBERNETES_API_URL, or a pod with a service"
                f" account ({error})"
            ) from error
    # The caller knows which requests may be repeated.
    configuration.retries = False
    configuration.connection_pool_maxsize = _CONNECTIONS
    return configuration


def _use_settings(configuration: Configuration, settings: Settings) -> None:
    assert settings.kubernetes_api_url is not None
    configuration.host = settings.kubernetes_api_url
    if settings.kubernetes_ca_file is not None:
        configuration.ssl_ca_cert = str(settings.kubernetes_ca_file)
    token_file = settings.kubernetes_token_file
    if token_file is None:
        raise SettingsError("KUBERNETES_TOKEN_FILE is unset: expected a file, for KUBERNETES_API_URL")

    def read_token(refreshed: Configuration) -> None:
        """Read the token again, because tokens of service accounts expire after an hour."""
        refreshed.api_key["BearerToken"] = f"Bearer {_read(token_file)}"

    read_token(configuration)
    configuration.refresh_api_key_hook = read_token


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise SettingsError(f"KUBERNETES_TOKEN_FILE={path}: expected a file that can be read") from error
