"""The configuration that a worker reads when it starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class ChildConfig(NamedTuple):
    """The part that the processes below the supervisor may know. Sizes are bytes."""

    code_dir: str
    scratch_dirs: Sequence[str] = ()
    readable: Sequence[str] = ("/",)  # paths that Landlock allows to read; a sandbox holds only readable files
    writable: Sequence[str] = ()  # folders that Landlock allows to write to, beside those of each worker
    child_uid: int | None = None
    child_gid: int | None = None
    own_pids: bool = False  # whether the worker has a PID namespace of its own
    max_result_size: int = 1 << 20
    max_processes: int = 128
    # Whether RLIMIT_NPROC would also count processes of other workers, which this one can't see. The supervisor then
    # counts processes, and gets more CPU time than they.
    shares_uid: bool = False
    is_init: bool = False  # whether the supervisor is the first process of the PID namespace, as in a container
    max_open_files: int = 1024
    max_file_size: int = 500 << 20
    has_memory_group: bool = False  # whether memory that belongs to no process is counted

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(self._asdict()).encode()

    @classmethod
    def decode(cls, data: bytes) -> ChildConfig:
        """The reverse of `encode`."""
        return cls(**json.loads(data))


class Config(NamedTuple):
    """The settings of the supervisor and of its children. Sizes are bytes, durations seconds."""

    secret: str
    child: ChildConfig
    code_fd: int | None = None  # the folder of `code_dir`, where that is mounted read-only; open until it is full
    cpu_shares_fd: int | None = None
    cpu_shares_format: str = "shares"
    memory_fds: Mapping[str, int] = {}  # memory files of the child's control group, by their use
    entrances: Sequence[int] = ()  # descriptors to which the child writes `0` to enter its control groups
    freeze_fd: int | None = None
    threads_fd: int | None = None  # has the number of threads of the worker's container
    scratch_size: int = 0  # the most bytes of memory that files in the scratch folders can take
    scratch_sizes: Mapping[str, int] = {}  # the most bytes in scratch folders that the kernel may not limit
    max_log_size: int = 256 << 10
    load_timeout_s: float = 10.0
    unpack_timeout_s: float = 30.0
    tmp_size: int | None = None  # bytes that calls may leave in scratch folders that are not mount points
    max_package_files: int = 10_000
    max_unpacked_size: int = 256 << 20

    @property
    def writable_code_dir(self) -> str:
        """The path by which the supervisor alone writes to `code_dir`. The final dot makes it a folder, not a link."""
        return self.child.code_dir if self.code_fd is None else f"/proc/self/fd/{self.code_fd}/."

    def descriptors(self) -> list[int]:
        """All descriptors that are named here."""
        single = [fd for fd in (self.code_fd, self.cpu_shares_fd, self.freeze_fd, self.threads_fd) if fd is not None]
        return [*single, *self.entrances, *self.memory_fds.values()]

    @classmethod
    def decode(cls, data: bytes) -> Config:
        """Read the JSON object that the orchestrator wrote into the configuration pipe."""
        given = json.loads(data)
        own = {name: given.pop(name) for name in cls._fields if name in given}
        has_memory_group = "usage" in own.get("memory_fds", {})
        return cls(child=ChildConfig(**given, has_memory_group=has_memory_group), **own)
