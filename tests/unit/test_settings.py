"""Settings: every variable is read once, typed and checked; a wrong one says so by name."""

from pathlib import Path

import pytest

from qinling_falcon.settings import Settings, SettingsError
from qinling_falcon.settings_environment import read_settings


def test_defaults_need_no_environment() -> None:
    settings = read_settings({})
    assert settings.port == 7070
    assert settings.effective_database_url.startswith("sqlite:///")
    assert settings.effective_redis_url.startswith("unix://")


def test_values_are_typed_and_empty_ones_count_as_unset() -> None:
    environ = {"PORT": "8080", "WARM_WORKERS": "", "ALLOW_REMOTE_NOAUTH": "Yes", "WORKER_IDLE_S": "1.5"}
    settings = read_settings(environ)
    assert (settings.port, settings.warm_workers, settings.allow_remote_noauth) == (8080, 3, True)
    assert settings.worker_idle_s == 1.5


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"PORT": "http"}, "PORT=http: expected a whole number"),
        ({"PORT": "70000"}, "at most 65535"),
        ({"ALLOW_REMOTE_NOAUTH": "maybe"}, "true or false"),
        ({"LIST_ENVELOPE": "sometimes"}, "one of auto, always, never"),
        ({"LIST_ENVELOPE_AGENTS": "("}, "LIST_ENVELOPE_AGENTS=.*regular expression"),
        ({"DEFAULT_CPU": "999"}, "DEFAULT_CPU=999"),
        ({"HOST": "0.0.0.0"}, "HOST=0.0.0.0"),
        ({"LIST_LIMIT": "20000"}, "LIST_LIMIT=20000"),
        ({"HOLDER_TTL_S": "nan"}, "HOLDER_TTL_S=nan: expected a number at least 1"),
        ({"WORKER_IDLE_S": "inf"}, "WORKER_IDLE_S=inf"),
        ({"MAX_MEMORY_SIZE": "1"}, "expected a whole number at least 1048576"),
        ({"ORCHESTRATOR": "nomad"}, "ORCHESTRATOR=nomad: expected one of process, kubernetes"),
        ({"REDIS_URL": "http://user:secret@host"}, "REDIS_URL=http:…: expected one of redis://"),
        ({"REDIS_URL": "redis://:secret@host:99999/0"}, "REDIS_URL: expected a port from 1 to 65535"),
        ({"REDIS_URL": "redis://host:0"}, "REDIS_URL: expected a port"),
        ({"REDIS_URL": "rediss://host:port"}, "REDIS_URL: expected a port"),
        ({"OS_AUTH_URL": "cloud:5000/v3"}, "OS_AUTH_URL=cloud:5000/v3: expected an http:// or https:// URL"),
        ({"OS_AUTH_URL": "http://user:secret@[bad"}, r"^OS_AUTH_URL=http://…@\[bad: expected an http:// or"),
        ({"WWW_AUTHENTICATE_URI": "http://[bad"}, r"WWW_AUTHENTICATE_URI=http://\[bad: expected"),
        ({"FUNCTION_AUTH_URL": "https://"}, "FUNCTION_AUTH_URL=https://: expected"),
        ({"PUBLIC_ENDPOINT": "https://cloud:port"}, "PUBLIC_ENDPOINT=https://cloud:port: expected"),
        ({"PUBLIC_ENDPOINT": "cloud"}, "PUBLIC_ENDPOINT=cloud: expected"),
        ({"ALLOWED_HOSTS": "engine:7070"}, "ALLOWED_HOSTS=engine:7070: expected host names without ports"),
        ({"ALLOWED_HOSTS": "engine, *"}, "ALLOWED_HOSTS="),
        ({"ALLOWED_HOSTS": "http://engine"}, "ALLOWED_HOSTS="),
        ({"TRUSTED_PROXIES": "10.0.0.0/8, proxy"}, "TRUSTED_PROXIES=.*: expected IP addresses or networks"),
        ({"TRUSTED_PROXIES": "*"}, "TRUSTED_PROXIES="),
        ({"CALLBACK_NETWORKS": "10.0.0.0/8, host"}, "CALLBACK_NETWORKS=.*: expected IP addresses or networks"),
        ({"SECRET_KEYS": f"{'A' * 43}=,{'A' * 42}B="}, "SECRET_KEYS: key 2 is not a Fernet key: expected 44"),
        ({"SECRET_KEYS": "a+/" * 14 + "aA="}, "SECRET_KEYS: key 1 is not"),
        ({"HOLDER_TTL_S": "2"}, "REAP_INTERVAL_S=1: expected at most a third of HOLDER_TTL_S=2"),
        ({"REAP_INTERVAL_S": "2.5"}, "REAP_INTERVAL_S=2.5: expected at most a third of HOLDER_TTL_S=6"),
        ({"OS_CACERT": "/nothing.pem"}, "OS_CACERT=/nothing.pem: expected a file that can be read"),
    ],
)
def test_wrong_value_is_refused_with_its_name_and_what_was_expected(environ: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        read_settings(environ)


def test_keys_are_never_printed() -> None:
    key = "A" * 43 + "="
    with pytest.raises(SettingsError) as caught:
        read_settings({"SECRET_KEYS": f"{key},hunter2"})
    assert "hunter2" not in str(caught.value)
    settings = read_settings({"SECRET_KEYS": f" {key} ,"})
    assert settings.secret_key_list == [key]
    assert key not in repr(settings)


def test_a_short_silence_is_noticed_by_short_passes() -> None:
    assert read_settings({"HOLDER_TTL_S": "3"}).reap_interval_s == 1
    assert read_settings({"HOLDER_TTL_S": "2", "REAP_INTERVAL_S": "0.5"}).holder_ttl_s == 2


def test_lists_are_separated_by_commas() -> None:
    environ = {"ALLOWED_HOSTS": " Engine,,b.example. ,[2001:db8::1]", "TRUSTED_PROXIES": "10.0.0.7/8,::1,"}
    settings = read_settings(environ)
    assert settings.other_hosts == {"engine", "b.example", "2001:db8::1"}
    assert [str(network) for network in settings.proxy_networks] == ["10.0.0.0/8", "::1/128"]
    assert Settings().proxy_networks == ()


def test_noauth_listens_beyond_loopback_only_when_told_to() -> None:
    assert read_settings({"HOST": "0.0.0.0", "ALLOW_REMOTE_NOAUTH": "true"}).host == "0.0.0.0"


def test_keystone_may_listen_beyond_loopback() -> None:
    account = {"OS_AUTH_URL": "http://k/v3", "OS_USERNAME": "u", "OS_PASSWORD": "p", "OS_PROJECT_NAME": "s"}
    assert read_settings(account | {"HOST": "0.0.0.0", "AUTH_MODE": "keystone"}).host == "0.0.0.0"
    with pytest.raises(SettingsError, match=r"HOST=0\.0\.0\.0"):
        read_settings(account | {"HOST": "0.0.0.0", "AUTH_MODE": "noauth"})


def test_the_counter_directory_of_tests_is_refused_with_keystone_and_without_the_folder(tmp_path: Path) -> None:
    account = {"OS_AUTH_URL": "http://k/v3", "OS_USERNAME": "u", "OS_PASSWORD": "p", "OS_PROJECT_NAME": "s"}
    given = {"TEST_COUNTER_DIR": str(tmp_path)}
    assert Settings().test_counter_dir is None
    assert read_settings(given).test_counter_dir == tmp_path
    with pytest.raises(SettingsError, match="for tests only"):
        read_settings(account | given | {"AUTH_MODE": "keystone"})
    with pytest.raises(SettingsError, match="expected an existing folder"):
        read_settings({"TEST_COUNTER_DIR": str(tmp_path / "missing")})
