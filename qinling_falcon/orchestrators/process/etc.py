"""Files of /etc in a sandbox: some are the host's, some are made for it. No other files of the host's are visible."""

from __future__ import annotations

import contextlib
from pathlib import Path

from qinling_falcon.settings import Settings

HOST_NAME = "function"
_HOSTS = Path("/etc/hosts")
# Files of the host with which programs find libraries, names, time zones and certificates.
_HOST_FILES = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "timezone", "nsswitch.conf", "services",
    "protocols", "mime.types", "ssl/certs", "ssl/openssl.cnf", "ca-certificates", "pki/tls/certs", "pki/tls/cert.pem",
    "pki/ca-trust", "crypto-policies",
)  # fmt: skip
_HOST_FILES_WITH_NETWORK = ("resolv.conf", "host.conf", "gai.conf")
ALL = (*_HOST_FILES, *_HOST_FILES_WITH_NETWORK, "hosts", "passwd", "group")


def host_files(settings: Settings) -> list[str]:
    """The names, below /etc, of the host's files that are visible in a sandbox."""
    names = _HOST_FILES + (_HOST_FILES_WITH_NETWORK if settings.network == "host" else ())
    return [name for name in names if Path("/etc", name).exists()]


def made_files(settings: Settings, uid: int, gid: int) -> dict[str, str]:
    """The texts of the files that are made for a sandbox, by path. `uid` and `gid` are those of the function."""
    return {
        "/etc/passwd": f"root:x:0:0::/nonexistent:/usr/sbin/nologin\nfunction:x:{uid}:{gid}::/tmp:/bin/sh\n",
        "/etc/group": f"root:x:0:\nfunction:x:{gid}:\n",
        str(_HOSTS): _hosts(settings),
    }


def _hosts(settings: Settings) -> str:
    """The text of /etc/hosts: the host's if functions share its network; `localhost` and `HOST_NAME` if missing."""
    text = ""
    if settings.network == "host":
        with contextlib.suppress(OSError):
            text = _HOSTS.read_text(errors="replace").rstrip("\n") + "\n"
    known = {name for line in text.splitlines() for name in line.partition("#")[0].split()[1:]}
    if "localhost" not in known:
        text += "127.0.0.1 localhost\n"
        if Path("/proc/net/if_inet6").exists():  # the kernel has IPv6, so a loopback interface has this address
            text += "::1 localhost ip6-localhost ip6-loopback\n"
    return text if HOST_NAME in known else f"{text}127.0.0.1 {HOST_NAME}\n"
