"""Every setting, once: its name, type, default, meaning and bounds.

A setting's environment variable is its field name in capitals. `settings_environment.py` reads and checks them, and
`settings_reference.py` makes their table for users.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qinling_falcon.setting_fields import MIB, setting
from qinling_falcon.settings_kubernetes import KubernetesSettings

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# A Unix socket's path has at most 107 bytes; the longest name in that folder has 24.
_MAX_SOCKET_DIR = 80
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+-]+")
# 32 bytes in URL-safe base64. The last letter before the padding has two bits that must be 0.
_FERNET_KEY = re.compile(r"[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]=")
_REQUIRED = " Required with `AUTH_MODE=keystone` or `PACKAGE_STORAGE=swift`."


# The kinds of quotas, as the API names them.
QUOTAS = ("functions", "package_bytes", "versions", "aliases", "webhooks", "jobs", "executions", "kept_workers")
_UNLIMITED = " -1: no limit."


# The most workers of any orchestrator: a pass of the pool manager looks at each worker.
MOST_WORKERS = 1000


class SettingsError(Exception):
    """A setting has a value that can't be used; the message names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(KubernetesSettings):
    """The settings of one process. Sizes are bytes, durations seconds, cpu millicores."""

    # Where it runs
    host: str = setting("127.0.0.1", "Address that the web process listens on.")
    port: int = setting(7070, "TCP port of the web process.", low=1, high=65535)
    var_dir: Path = setting(Path("var"), "Folder of data, sockets and logs; made when missing.")
    redis_url: str | None = setting(
        None, "Redis or Valkey: `redis://`, `rediss://` or `unix://`. Unset: the embedded Valkey in `VAR_DIR`."
    )
    database_url: str | None = setting(
        None, "`postgresql://…` or `sqlite:///path`. Unset: SQLite in `VAR_DIR`."
    )
    database_timeout_s: float = setting(
        5.0, "Longest wait of a read or write for the database before it is refused.", low=0.1, high=300
    )
    database_pool_size: int = setting(20, "Most connections of a process that read from the database.", low=1)
    database_queue_size: int = setting(10_000, "Most writes of a process that wait for the database.", low=1)
    web_concurrency: int = setting(2, "Gunicorn worker processes.", low=1, high=64)
    web_connections: int = setting(
        1000,
        "Requests that a web process serves at once; further requests wait. Function calls use at most three quarters"
        " of these places, and the calls of one project at most as many as remain free for other projects. At most a"
        " quarter of the places may wait for Keystone to validate tokens.",
        low=8,
    )
    max_connections: int = setting(
        4000,
        "Open connections of a web process, idle ones included. At the limit, a new connection closes the oldest idle"
        " one. The limit on open files also applies.",
        low=16,
    )
    keep_alive_s: float = setting(
        75.0,
        "Time after which an idle connection is closed. Keep it above the idle timeout of the load balancer in front"
        " (usually 60 s).",
        low=1,
        high=3600,
    )
    head_timeout_s: float = setting(
        10.0, "Time limit for the request line and headers, counted from the first byte.", low=0.5, high=300
    )
    body_grace_s: float = setting(
        20.0, "Base time limit for a request body; `BODY_MIN_RATE` extends it.", low=0.5, high=3600
    )
    body_min_rate: int = setting(
        1000, "Bytes of a request body that extend its time limit by one second.", low=1
    )
    max_unfinished_bodies: int = setting(
        500, "Request bodies that a web process is receiving at once; one project may have half of them.", low=2
    )
    max_unfinished_body_bytes: int = setting(
        64 * MIB, "Memory for the request bodies that a web process is receiving; one project may use half.", low=MIB
    )
    max_unfinished_uploads: int = setting(
        100, "Package uploads that a web process is receiving at once; one project may have half of them.", low=2
    )
    max_unfinished_upload_bytes: int = setting(
        1024 * MIB, "Disk space for the uploads that a web process is receiving; one project may use half.", low=MIB
    )
    send_timeout_s: float = setting(
        60.0, "A client that reads nothing of its answer for this long is disconnected.", low=1, high=3600
    )
    max_open_answers: int = setting(
        100,
        "Most answers above 16 KiB that a web process sends at once; one project may have half of them. At the limit, "
        "an answer whose client does not read is cut off. If all clients read, the new answer is refused.",
        low=2,
    )
    max_open_answer_bytes: int = setting(
        32 * MIB,
        "Memory for the unsent parts of these answers in a web process; one project may use half.",
        low=MIB,
    )
    max_open_answer_files: int = setting(
        1024 * MIB,
        "Disk space for packages from Swift that a web process is sending; one project may use half.",
        low=MIB,
    )
    send_min_rate: int = setting(
        1000, "Bytes of an answer that give its client one more second, beyond `SEND_TIMEOUT_S`.", low=1
    )
    shutdown_grace_s: float = setting(10.0, "Time that running calls get to finish at a stop.", low=0, high=3600)
    log_level: Literal["debug", "info", "warning", "error"] = setting("info", "Lowest level that is logged.")

    # Who may call
    auth_mode: Literal["noauth", "keystone"] = setting(
        "noauth", "`noauth`: every caller is the admin of project `default`. `keystone`: see docs/openstack.md."
    )
    allow_remote_noauth: bool = setting(False, "Let `noauth` listen beyond loopback.")
    allowed_hosts: str | None = setting(
        None,
        "With `noauth`: further host names under which clients reach the service, such as a container's name, "
        "separated by commas. Loopback names, `HOST` and the host of `PUBLIC_ENDPOINT` are always allowed. With "
        "`HOST=0.0.0.0` or `::`, all IP addresses are allowed, too. A request for another host is refused (421), "
        "because it may come from a web page that uses DNS rebinding.",
    )
    policy_file: Path | None = setting(None, "YAML file of rules, in oslo.policy's syntax, instead of the defaults.")
    token_cache_s: float = setting(
        60.0, "A token that Keystone has found good is believed for so long: until then a revoked one passes.",
        low=0, high=3600,
    )  # fmt: skip
    token_cache_size: int = setting(10_000, "Most tokens that a web process remembers.", low=1)
    keystone_timeout_s: float = setting(3.0, "Longest wait for Keystone's answer to each question.", low=0.1, high=60)
    www_authenticate_uri: str | None = setting(None, "Keystone's URL for users. Unset: `OS_AUTH_URL`.")
    function_auth_url: str | None = setting(None, "Keystone's URL for functions. Unset: `OS_AUTH_URL`.")

    # Secrets of functions, in the database
    secret_keys: str | None = setting(
        None,
        "Keys that encrypt the stored secrets of functions, separated by commas. The first one encrypts; all of them"
        " decrypt. Each is a Fernet key: 32 random bytes in URL-safe base64. Unset: `make run` makes a key and keeps it"
        " in `VAR_DIR/secret.key`; other processes refuse to store secrets. See docs/secrets.md.",
        secret=True,
    )

    # The service's own account in OpenStack, under the names that OpenStack's clients use
    os_auth_url: str | None = setting(
        None, f"Keystone's URL for the service, such as `https://cloud:5000/v3`.{_REQUIRED}"
    )
    os_username: str | None = setting(None, f"The service's user.{_REQUIRED}")
    os_password: str | None = setting(None, f"Its password.{_REQUIRED}", secret=True)
    os_project_name: str | None = setting(None, f"Its project.{_REQUIRED}")
    os_user_domain_name: str = setting("Default", "The domain of that user.")
    os_project_domain_name: str = setting("Default", "The domain of that project.")
    os_user_domain_id: str | None = setting(None, "The domain of that user by id; counts more than its name.")
    os_project_domain_id: str | None = setting(None, "The domain of that project by id; counts more than its name.")
    os_region_name: str | None = setting(None, "Region whose endpoints are used. Unset: the catalogue's first.")
    os_interface: Literal["public", "internal", "admin"] = setting(
        "public", "Which endpoints of the catalogue are used for Keystone and Swift."
    )
    os_cacert: Path | None = setting(None, "Certificates of authorities that are believed beside the system's.")

    # The API
    public_endpoint: str | None = setting(None, "Base URL that users see; unset: taken from each request's host.")
    trusted_proxies: str | None = setting(
        None,
        "Addresses or networks of trusted reverse proxies, separated by commas. Links in answers use the "
        "`X-Forwarded-Proto`, `X-Forwarded-Host` and `X-Forwarded-Prefix` headers of these proxies. The headers of "
        "all other clients are ignored, on loopback too, because any local program could send them.",
    )
    list_envelope: Literal["auto", "always", "never"] = setting(
        "auto", "Lists as `{\"functions\": […]}`; `auto`: for the user agents below, bare arrays for others."
    )
    list_envelope_agents: str = setting(
        "python-qinlingclient|horizon", "Pattern of user agents that need the envelope."
    )
    list_limit: int = setting(1000, "Rows a page when the caller names no `limit`.", low=1)
    list_limit_max: int = setting(10000, "Highest `limit` that a caller may name.", low=1)
    max_body_size: int = setting(2 * MIB, "Largest JSON request body.", low=1024)
    max_json_depth: int = setting(64, "Deepest nesting of a JSON request body.", low=1, high=500)
    max_input_size: int = setting(
        1 * MIB,
        "Largest input of an execution. A worker takes up to 16 MiB, with the context of the call.",
        low=0,
        high=15 * MIB,
    )
    max_held_input_size: int = setting(
        32 * MIB,
        "Memory for the inputs of the calls that run or wait in a web process; at least eight times the largest "
        "input. As much again for the executions that are being accepted. At the limit, requests with inputs above "
        "4 KiB are refused at once. One project uses at most as much as remains free for other projects.",
        low=0,
    )

    # Functions
    max_package_size: int = setting(51 * MIB, "Largest function package, as uploaded.", low=1024)
    package_storage: Literal["local", "swift"] = setting(
        "local",
        "Where packages are kept: below `VAR_DIR`, or in the service's own account in Swift. A change moves none: "
        "functions that were made before need their packages anew.",
    )
    package_cache_size: int = setting(
        64 * MIB, "Bytes of packages that each process keeps at hand for workers that are to load them.", low=0
    )
    package_container: str = setting(
        "qinling-packages",
        "Container for packages in Swift, made when missing. One for each installation: packages in it that its "
        "database doesn't know are deleted after an hour.",
    )
    swift_timeout_s: float = setting(20.0, "Longest transfer of a package from or to Swift.", low=0.5, high=600)
    swift_check_s: float = setting(
        10.0, "A call looks whether its function's object in Swift has changed, if nobody did for so long.", low=0
    )
    max_unpacked_size: int = setting(256 * MIB, "Largest function package, unpacked.", low=1024)
    max_package_files: int = setting(
        10_000, "Most entries in a function package; folders that only appear in other entries' paths count.", low=1
    )
    max_package_depth: int = setting(100, "Deepest nesting of folders in a function package.", low=1)
    project_uploads: int = setting(
        32, "Most uploads of one project that a web process checks or queues for the check.", low=1
    )
    upload_queue_timeout_s: float = setting(
        30.0, "Longest time that an upload waits for its check; then it is refused.", low=0.1, high=600
    )
    max_versions: int = setting(10, "Most versions of a function.", low=1)
    min_cpu: int = setting(100, "Lowest `cpu` of a function.", low=1)
    max_cpu: int = setting(300, "Highest `cpu` of a function.", low=1)
    default_cpu: int = setting(100, "`cpu` of a function that names none.", low=1)
    min_memory_size: int = setting(32 * MIB, "Lowest `memory_size` of a function.", low=MIB)
    max_memory_size: int = setting(128 * MIB, "Highest `memory_size` of a function.", low=MIB)
    default_memory_size: int = setting(32 * MIB, "`memory_size` of a function that names none.", low=MIB)
    min_timeout: int = setting(1, "Lowest `timeout` of a function.", low=1)
    max_timeout: int = setting(300, "Highest `timeout` of a function.", low=1)
    default_timeout: int = setting(5, "`timeout` of a function that names none.", low=1)

    # Quotas of a project; an admin can set other limits for a project (`PUT /v1/quotas`)
    quota_functions: int = setting(1000, f"Most functions of a project.{_UNLIMITED}", low=-1)
    quota_package_bytes: int = setting(
        10 * 1024 * MIB,
        f"Most bytes of the packages of a project's functions and versions; a shared package counts once."
        f"{_UNLIMITED}",
        low=-1,
    )
    quota_versions: int = setting(5000, f"Most versions of all functions of a project.{_UNLIMITED}", low=-1)
    quota_aliases: int = setting(1000, f"Most aliases of a project.{_UNLIMITED}", low=-1)
    quota_webhooks: int = setting(1000, f"Most webhooks of a project.{_UNLIMITED}", low=-1)
    quota_jobs: int = setting(1000, f"Most jobs of a project, including jobs that have ended.{_UNLIMITED}", low=-1)
    quota_executions: int = setting(
        1_000_000,
        "Most execution records of a project, calls that run included. At the limit, calls are refused before they run."
        " Records beyond `EXECUTIONS_KEPT` are deleted once a minute, so this limit must exceed `EXECUTIONS_KEPT` by "
        f"more than the calls of a minute.{_UNLIMITED}",
        low=-1,
    )

    quota_kept_workers: int = setting(
        8,
        "Most workers that are kept for a project: the sum of `min_warm` of its functions and versions. For all "
        f"projects together, at most half of `MAX_WORKERS` are kept.{_UNLIMITED}",
        low=-1,
    )

    # Idempotency keys
    idempotency_ttl_s: int = setting(
        24 * 3600, "How long an `Idempotency-Key` stands for its execution, counted from the first request.", low=60
    )
    # Callbacks of functions, when an asynchronous execution ends (docs/callbacks.md)
    callback_networks: str | None = setting(
        None,
        "Networks that callbacks may reach in addition to public addresses, separated by commas, such as"
        " `10.1.0.0/16`. Callbacks to all other addresses that are not public are refused.",
    )
    callback_timeout_s: float = setting(
        10.0, "Time limit of one delivery of a callback, from the look-up of the name to the answer.", low=0.1, high=300
    )
    callback_max_attempts: int = setting(
        8, "Most attempts to deliver a callback; after the last one it is dropped.", low=1, high=100
    )
    callback_backoff_s: float = setting(
        10.0,
        "Longest pause after the first failed attempt to deliver a callback. The longest pause doubles with each"
        " attempt, up to an hour. The pause is a random part of it.",
        low=0.01,
        high=3600,
    )
    callback_concurrency: int = setting(
        32, "Callbacks that a process delivers at once. One project has at most a quarter of these places.", low=1,
        high=1000,
    )  # fmt: skip

    # Retention of executions and their logs; running executions are never deleted
    execution_retention_s: float = setting(
        30 * 24 * 3600.0, "Age at which an execution is deleted, counted from its start. 0: never.", low=0
    )
    executions_kept: int = setting(
        100_000,
        "Executions kept for each project; older ones are deleted once a minute. Set it below `QUOTA_EXECUTIONS`; at "
        "or above that, calls are refused before anything is deleted. 0: all are kept.",
        low=0,
    )

    # The warm pool
    warm_workers: int = setting(3, "Warm workers that are kept ready for each runtime.", low=0)
    max_workers: int | None = setting(
        None,
        "Most workers, all runtimes together. Unset: what the host has memory, processes and open files for, at most "
        "1000 (docs/operations.md).",
        low=1,
    )
    worker_idle_s: float = setting(300.0, "An assigned worker that was not used for so long is ended.", low=1)
    worker_start_timeout_s: float = setting(15.0, "A worker that is not ready after so long has failed.", low=0.5)
    load_timeout_s: float = setting(10.0, "Time for a function's module to be imported.", low=0.5)
    unpack_timeout_s: float = setting(30.0, "Time limit for a worker to unpack a function's package.", low=0.5)
    invoke_queue_timeout_s: float = setting(10.0, "Longest wait for a worker before a call is refused.", low=0)
    max_waiters: int = setting(
        2000,
        "Most calls of all projects that wait for a worker; further calls are refused at once. One project uses at "
        "most as many of these places as remain free for other projects.",
        low=0,
    )
    function_concurrency: int | None = setting(
        None, "Most simultaneous executions of one function. Unset: two thirds of `MAX_WORKERS`.", low=1
    )
    function_queue_factor: int = setting(
        3,
        "Most calls of one function that wait for a worker, as a multiple of `FUNCTION_CONCURRENCY`, or of at least 32 "
        "if that is unset; further calls are refused at once.",
        low=1,
        high=1000,
    )
    project_concurrency: int | None = setting(
        None, "Most simultaneous executions of one project. Unset: five sixths of `MAX_WORKERS`.", low=1
    )
    project_queue_factor: int = setting(
        6,
        "Most calls of one project that wait for a worker, as a multiple of `PROJECT_CONCURRENCY`, or of at least 40 "
        "if that is unset; further calls are refused at once. One function uses at most as many of its project's "
        "places as remain free for its other functions.",
        low=1,
        high=1000,
    )
    runtime_concurrency: int | None = setting(
        None, "Most simultaneous executions in workers of one runtime. Unset: as many as there are workers.", low=1
    )
    async_concurrency: int = setting(
        112,
        "Most asynchronous executions that one `worker` process has claimed at once. One project uses at most three "
        "quarters of these places, and one function three fifths.",
        low=1,
        high=10_000,
    )
    async_workers: int | None = setting(
        None,
        "Most workers that run asynchronous executions at once; the others are left for calls. One project uses at "
        "most three quarters of them, and one function three fifths. Unset: three quarters of `MAX_WORKERS`.",
        low=1,
    )
    async_queue_limit: int = setting(
        100_000, "Most asynchronous executions of one project that wait; further ones are refused.", low=1
    )
    async_max_input_size: int = setting(1 * MIB, "Largest input of an asynchronous execution.", low=1024)
    async_max_age_s: int = setting(
        24 * 3600,
        "An asynchronous execution that is older than this many seconds is not started any more, and ends as `dead`. A "
        "function's `max_age_s` replaces it.",
        low=1,
    )
    job_misfire_grace_s: float = setting(
        60.0,
        'A job with `"misfire": "skip"` does not fire for a time that is longer ago than this.',
        low=5,
        high=7 * 24 * 3600,
    )
    execution_wait_max_s: float = setting(
        60.0, "Longest time for which `GET /v1/executions/{id}?wait=…` waits for the end.", low=0, high=3600
    )
    async_claim_s: float = setting(
        60.0,
        "How long the claim of a `worker` process on an execution lasts. The process extends its claims. If it is"
        " killed before it has started an execution, another process can claim the execution when the claim has"
        " expired.",
        low=2,
        high=3600,
    )
    lease_grace_s: float = setting(5.0, "Time after a function's timeout until its lease is reaped.", low=0.5)
    holder_ttl_s: float = setting(6.0, "A process that was silent for so long has lost its leases.", low=1)
    reap_interval_s: float = setting(
        1.0, "Time between two passes of the pool manager; at most a third of `HOLDER_TTL_S`.", low=0.05
    )

    # Runtime workers
    orchestrator: Literal["process", "kubernetes"] = setting(
        "process",
        "What makes the workers. `process`: sandboxed processes on the machine of the pool manager. `kubernetes`: pods;"
        " see docs/kubernetes.md.",
    )
    runtimes_file: Path = setting(
        Path("config/runtimes.toml"), "Table of runtimes: image name to local program and image of pods."
    )
    register_runtimes: bool = setting(
        True, "The `release` step registers missing local runtimes that have `register = true`."
    )
    sandbox: Literal["auto", "bubblewrap", "rlimits"] = setting(
        "auto", "`auto`: the strongest isolation that this host gives; `bubblewrap`: refuse to start without it."
    )
    worker_start: Literal["auto", "fork", "exec"] = setting(
        "auto",
        "How local workers are started. `fork`: forked in milliseconds from a process that has imported their program; "
        "`exec`: one by one, at ten times the CPU; `auto`: by `fork` where this host and the runtime support it.",
    )
    sandbox_uid_base: int = setting(210_000, "First of the uids that workers run under (two each).", low=1000)
    network: Literal["off", "host"] = setting("off", "What a function can reach: nothing, or the host's network.")
    tmp_size: int = setting(
        64 * MIB, "Size of a worker's `/tmp`; with `SANDBOX=rlimits`, how much calls may leave there.", low=MIB
    )
    shm_size: int = setting(16 * MIB, "Size of a worker's `/dev/shm`.", low=MIB)
    workers_memory: int = setting(
        0,
        "Most memory that all local workers may use together; needs control groups. "
        "0: four fifths of the machine's memory.",
        low=0,
    )
    max_processes: int = setting(128, "Most processes and threads of one execution.", low=4)
    max_open_files: int = setting(1024, "Most open files of a function's process.", low=64)
    max_file_size: int = setting(500 * MIB, "Largest file that a function may write.", low=MIB)
    max_result_size: int = setting(1 * MIB, "Largest result of an execution, as JSON.", low=1024)
    max_log_size: int = setting(256 * 1024, "Largest log of an execution; the rest is cut and said so.", low=1024)

    # For tests only
    test_counter_dir: Path | None = setting(
        None,
        "For tests only; never set it in a service that people use. A folder of the pool manager's machine, with mode"
        " 1777, that all functions of all projects can write to, as `/counters`. Needs bubblewrap; refused with"
        " `AUTH_MODE=keystone`.",
    )

    @property
    def quotas(self) -> dict[str, int]:
        """The default limits of a project, by kind; -1: no limit."""
        return {kind: getattr(self, f"quota_{kind}") for kind in QUOTAS}

    @property
    def most_workers(self) -> int:
        """The most workers that can exist: `MAX_WORKERS`, or if it is unset the most of any host."""
        return self.max_workers or MOST_WORKERS

    @property
    def other_hosts(self) -> frozenset[str]:
        """The names in `ALLOWED_HOSTS`, in small letters."""
        return frozenset(name.lower().strip("[]").removesuffix(".") for name in _items(self.allowed_hosts))

    @property
    def proxy_networks(self) -> tuple[Network, ...]:
        """The networks in `TRUSTED_PROXIES`."""
        return tuple(ipaddress.ip_network(network, strict=False) for network in _items(self.trusted_proxies))

    @property
    def allowed_callback_networks(self) -> tuple[Network, ...]:
        """The networks in `CALLBACK_NETWORKS`."""
        return tuple(ipaddress.ip_network(network, strict=False) for network in _items(self.callback_networks))

    @property
    def secret_key_list(self) -> list[str]:
        """The keys in `SECRET_KEYS`."""
        return _items(self.secret_keys)

    @property
    def socket_dir(self) -> Path:
        """Folder of Unix sockets: in `VAR_DIR`, or in `/tmp` where that path is too long, or odd in a URL."""
        folder = self.var_dir.absolute() / "run"
        if len(str(folder)) <= _MAX_SOCKET_DIR and _PLAIN_PATH.fullmatch(str(folder)):
            return folder
        digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        return Path("/tmp") / f"qinling-{os.getuid()}-{digest}"

    @property
    def valkey_socket(self) -> Path:
        """Unix socket of the embedded Valkey."""
        return self.socket_dir / "valkey.sock"

    @property
    def effective_redis_url(self) -> str:
        """`REDIS_URL`, or that of the embedded Valkey."""
        return self.redis_url or f"unix://{self.valkey_socket}"

    @property
    def effective_database_url(self) -> str:
        """`DATABASE_URL`, or that of SQLite in `VAR_DIR`."""
        return self.database_url or f"sqlite:///{self.var_dir.absolute() / 'qinling.db'}"


def _items(text: str | None) -> list[str]:
    return [item.strip() for item in (text or "").split(",") if item.strip()]


def is_fernet_key(text: str) -> bool:
    """Whether `text` is a key for `SECRET_KEYS`."""
    return _FERNET_KEY.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine alone."""
    return host in ("localhost", "::1") or host.startswith("127.")
