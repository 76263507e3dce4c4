"""Reads the settings of a process from the environment, and checks them.

A wrong value stops the start with its name and what was expected.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import math
import os
import re
import types
import typing
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from qinling_falcon.settings import Settings, SettingsError, is_fernet_key, is_loopback

_CONTAINER = re.compile(r"[A-Za-z0-9._-]{1,200}")
_HOST_NAME = re.compile(r"[a-z0-9._-]+")
_REDIS_SCHEMES = ("redis://", "rediss://", "unix://")
_TRUE = {"1", "t", "true", "on", "y", "yes"}
_FALSE = {"0", "f", "false", "off", "n", "no"}
# The reaper makes so many passes, at least, until a silent process counts as dead.
_PASSES_PER_TTL = 3


@functools.cache
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return read_settings()


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read every setting from `environ`; empty values count as unset.

    Raises:
        SettingsError: naming the variable, its value and what was expected.
    """
    hints = typing.get_type_hints(Settings)
    given = {}
    for field in dataclasses.fields(Settings):
        text = environ.get(field.name.upper(), "").strip()
        if text:
            given[field.name] = _parse(field, hints[field.name], text)
    settings = Settings(**given)
    _check(settings)
    return settings


def _parse(field: dataclasses.Field[Any], hint: Any, text: str) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(part for part in hint.__args__ if part is not type(None))
    name = field.name.upper()
    try:
        value = _convert(hint, text)
    except ValueError:
        raise SettingsError(f"{name}={text}: expected {_expected(field, hint)}") from None
    low, high = field.metadata["low"], field.metadata["high"]
    if (low is not None and value < low) or (high is not None and value > high):
        raise SettingsError(f"{name}={text}: expected {_expected(field, hint)}")
    return value


def _convert(hint: Any, text: str) -> Any:
    if typing.get_origin(hint) is Literal:
        if text not in hint.__args__:
            raise ValueError
        return text
    if hint is bool:
        if text.lower() not in _TRUE | _FALSE:
            raise ValueError
        return text.lower() in _TRUE
    value = hint(text)
    if hint is float and not math.isfinite(value):
        raise ValueError
    return value


def _expected(field: dataclasses.Field[Any], hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(hint.__args__)
    if hint is bool:
        return "true or false"
    kind = {int: "a whole number", float: "a number", str: "text", Path: "a path"}[hint]
    low, high = field.metadata["low"], field.metadata["high"]
    bounds = [f"at least {low}"] if low is not None else []
    bounds += [f"at most {high}"] if high is not None else []
    return " ".join([kind, " and ".join(bounds)]).strip()


def _check(settings: Settings) -> None:
    for kind in ("cpu", "memory_size", "timeout"):
        low, default, high = (getattr(settings, f"{word}_{kind}") for word in ("min", "default", "max"))
        if not low <= default <= high:
            raise SettingsError(
                f"DEFAULT_{kind.upper()}={default}: expected a value between MIN_{kind.upper()}={low}"
                f" and MAX_{kind.upper()}={high}"
            )
    try:
        re.compile(settings.list_envelope_agents)
    except re.error:
        raise SettingsError(
            f"LIST_ENVELOPE_AGENTS={settings.list_envelope_agents}: expected a regular expression"
        ) from None
    if settings.list_limit > settings.list_limit_max:
        raise SettingsError(
            f"LIST_LIMIT={settings.list_limit}: expected at most LIST_LIMIT_MAX={settings.list_limit_max}"
        )
    # After a gap of half a TTL, the reaper lets all processes report first. So it would never find a dead one.
    if settings.reap_interval_s * _PASSES_PER_TTL > settings.holder_ttl_s:
        raise SettingsError(
            f"REAP_INTERVAL_S={settings.reap_interval_s:g}: expected at most a third of"
            f" HOLDER_TTL_S={settings.holder_ttl_s:g}"
        )
    if settings.redis_url and not settings.redis_url.startswith(_REDIS_SCHEMES):
        scheme = settings.redis_url.partition(":")[0]
        raise SettingsError(f"REDIS_URL={scheme[:20]}:…: expected one of {', '.join(_REDIS_SCHEMES)}")
    if settings.redis_url and not _has_possible_port(settings.redis_url):
        raise SettingsError(
            "REDIS_URL: expected a port from 1 to 65535. Special characters in a password have to be"
            " percent-encoded"
        )
    if settings.auth_mode == "keystone" or settings.package_storage == "swift":
        why = "AUTH_MODE=keystone" if settings.auth_mode == "keystone" else "PACKAGE_STORAGE=swift"
        for name in ("os_auth_url", "os_username", "os_password", "os_project_name"):
            if getattr(settings, name) is None:
                raise SettingsError(f"{name.upper()} is unset: expected a value, for {why}")
    for name in ("os_auth_url", "www_authenticate_uri", "function_auth_url", "public_endpoint"):
        url = getattr(settings, name)
        if url is not None and not _is_web_url(url):
            shown = re.sub(r"//.*@", "//…@", url)  # before it there may be a password
            raise SettingsError(f"{name.upper()}={shown}: expected an http:// or https:// URL")
    if settings.os_cacert is not None and not os.access(settings.os_cacert, os.R_OK):
        raise SettingsError(f"OS_CACERT={settings.os_cacert}: expected a file that can be read")
    if not _CONTAINER.fullmatch(settings.package_container) or settings.package_container in (".", ".."):
        raise SettingsError(
            f"PACKAGE_CONTAINER={settings.package_container}: expected a name of up to 200 letters, digits and ._-"
        )
    folder = settings.test_counter_dir
    if folder is not None and (settings.auth_mode != "noauth" or not folder.is_dir()):
        raise SettingsError(
            f"TEST_COUNTER_DIR={folder}: expected an existing folder, and AUTH_MODE=noauth; it is"
            " for tests only"
        )
    if settings.kubernetes_node_address is not None and not _is_address(settings.kubernetes_node_address):
        raise SettingsError(f"KUBERNETES_NODE_ADDRESS={settings.kubernetes_node_address}: expected an IP address")
    for name in settings.other_hosts:
        if not _HOST_NAME.fullmatch(name) and not _is_address(name):
            raise SettingsError(
                f"ALLOWED_HOSTS={settings.allowed_hosts}: expected host names without ports, separated by commas"
            )
    try:
        settings.proxy_networks  # noqa: B018 - reading the property validates it
    except ValueError:
        raise SettingsError(
            f"TRUSTED_PROXIES={settings.trusted_proxies}: expected IP addresses or networks, separated by commas"
        ) from None
    try:
        settings.allowed_callback_networks  # noqa: B018 - reading the property validates it
    except ValueError:
        raise SettingsError(
            f"CALLBACK_NETWORKS={settings.callback_networks}: expected IP addresses or networks, separated by commas"
        ) from None
    for position, key in enumerate(settings.secret_key_list, 1):
        if not is_fernet_key(key):
            raise SettingsError(
                f"SECRET_KEYS: key {position} is not a Fernet key: expected 44 characters, which are 32 bytes in"
                " URL-safe base64"
            )
    if settings.auth_mode == "noauth" and not settings.allow_remote_noauth and not is_loopback(settings.host):
        raise SettingsError(
            f"HOST={settings.host}: expected a loopback address, for AUTH_MODE=noauth lets everybody in"
            " (ALLOW_REMOTE_NOAUTH=true if that is meant)"
        )


def _is_address(text: str) -> bool:
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def _has_possible_port(url: str) -> bool:
    """Whether the port in a URL, if there is one, can be one."""
    try:
        return urllib.parse.urlsplit(url).port != 0
    except ValueError:
        return False


def _is_web_url(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets that are no IPv6 address, or a port that is no number
        return False
