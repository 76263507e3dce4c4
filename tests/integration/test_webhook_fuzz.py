"""The open endpoint under made-up requests: each gets an answer below 500, soon, and memory stays bounded.

Senders need no token, so whatever HTTP allows can arrive here: any method, path, header and body, whole or in chunks.
`make fuzz` sends more (`FUZZ_EXAMPLES`).
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tests.integration.service import Service, running_service
from tests.support.secrets import fernet_key

pytestmark = pytest.mark.xdist_group("webhook-fuzz")  # one service for all of them

EXAMPLES = 100 * int(os.environ.get("FUZZ_EXAMPLES") or 10)
SEED = int(os.environ.get("FUZZ_SEED") or 1)
MOST_GROWTH = 64 * 1024 * 1024
# MAX_UNFINISHED_BODY_BYTES and MAX_HELD_INPUT_SIZE, and what one body takes while it is parsed.
MOST_AT_ONCE = (64 + 32 + 64) * 1024 * 1024
COUNT = "def main(*arguments, **named):\n    return [len(arguments), len(named)]\n"
SECRET = "0Gc4uFz7Lq2mT9xW"
STANDARD = "whsec_" + base64.b64encode(b"0" * 32).decode()

METHODS = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "QUERY", "PROPFIND", "REPORT", "PURGE", "FOO",
]  # fmt: skip
TYPES = [
    "application/json", "application/json; charset=utf-16", "text/plain", "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=b", "multipart/form-data", "multipart/form-data; boundary=" + "b" * 300,
    "application/octet-stream", "", ";;", "application/json\xff", "a/b;" * 50,
]  # fmt: skip
PATHS = ["", "/", "//", "/a", "/a/b%2Fc//", "/%00", "/%ff", "/..", "/%2e%2e/x", "/" + "x" * 3000, "/\xe4", "/invoke/a"]
QUERIES = ["", "?", "?a=1&a=2", "?%ff", "?a=%00", "?" + "&a=1" * 1500, "?=&&=", "?a[]=1;b"]
NAMES = [
    "webhook-id", "webhook-timestamp", "webhook-signature", "X-GitHub-Delivery", "X-Hub-Signature-256",
    "Stripe-Signature", "Origin", "Access-Control-Request-Method", "Access-Control-Request-Headers", "X-Request-Id",
    "Idempotency-Key", "Qinling-Callback-Depth", "Content-Encoding", "Cookie", "Accept", "Range", "If-None-Match",
    "X-Forwarded-Host", "Sec-Fetch-Site", "X-Auth-Token",
]  # fmt: skip
VALUES = [
    "", "1", "0", "-1", "9" * 400, "a.b", "v1,", "v1,AAAA v1,BBBB", "sha256=" + "0" * 64, "t=1,v1=00", "t=,v1=", "null",
    "https://shop.example", "POST", "x, y", "\xff\xfe", "\x80" * 50, "gzip", "cross-site", ",", "=", "\t", "{}",
]  # fmt: skip
LONG = [
    ("Stripe-Signature", "t=1" + ",v1=" + "0" * 64 + ",v1=" * 1500), ("webhook-signature", "v1,AAAA " * 900),
    ("X-Hub-Signature-256", "sha256=" + "0" * 7000), ("webhook-id", "x" * 7000), ("Origin", "https://" + "a." * 3000),
    ("Qinling-Callback-Depth", "9" * 7000), ("Content-Encoding", "identity, " * 700), ("Connection", "x-a, " * 1500),
]  # fmt: skip
BODIES = [
    b"", b"{}", b'{"a": 1}', b"[1]", b"null", b'"', b"\xff\xfe", b"\0", b"{" * 3000, b"[" * 100_000, b"9" * 5000,
    b'{"a": 1e999}', b'{"a": "\\ud800"}', b'{"context": 1, "": 2}', b"a=1&b=%ff", b"a=" * 2000, b"&" * 5000,
    b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--\r\n',
    b'--b\r\nContent-Disposition: form-data; name="a"; filename="x"\r\n\r\n\xff\r\n--b--\r\n',
    b'["\\u0041"' + b",0" * 500_000 + b"]", b"[" + b"[]," * 300_000 + b"0]", b"[" + b"0.1," * 250_000 + b"0]",
    b"a=" + b"%41" * 300_000, b'{"a": "' + b"\\ud83d\\ude00" * 80_000 + b'"}', b"[" + b"0," * 500_000 + b'"\\u0000"]',
    b"--b\r\n\r\n", b"--b", b"x" * 1_048_576, b"x" * 1_048_577, b'{"id": "evt_1"}', b'{"id": {"a": 1}}',
]  # fmt: skip


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service(max_workers=4, web_concurrency=1, secret_keys=fernet_key()) as running:
        yield running


@pytest.fixture(scope="module")
def webhooks(service: Service) -> list[str]:
    """Ids of webhooks of all kinds."""
    function_id = service.function(COUNT)
    kinds: list[dict[str, Any]] = [
        {"methods": ["*"], "subpaths": True},
        {"methods": ["*"], "subpaths": True, "pass_request": True},
        {"methods": ["*"], "subpaths": True, "sync": True, "cors": ["*"]},
        {"methods": ["*"], "sync": True, "pass_request": True},
        {"methods": ["POST", "PUT"], "cors": ["https://shop.example"]},
        {"enabled": False, "methods": ["*"]},
        {"signature": {"scheme": "github", "secrets": [SECRET]}, "methods": ["*"], "subpaths": True},
        {"signature": {"scheme": "stripe", "secrets": [SECRET]}},
        {"signature": {"scheme": "standard", "secrets": [STANDARD]}},
        {"rate_limit": {"per_minute": 1, "burst": 3}, "methods": ["*"], "subpaths": True},
    ]
    made = [service.request("POST", "/v1/webhooks", json={"function_id": function_id, **kind}) for kind in kinds]
    assert {answer.status_code for answer in made} == {201}
    return [answer.json()["id"] for answer in made] + ["00000000-0000-4000-8000-000000000000", "seven"]


def made_up(random_: random.Random, webhooks: list[str]) -> bytes:
    """A request."""
    token = "".join(random_.choices("ABCabc!#$%&'*+-.^_`|~019", k=random_.randint(1, 12)))
    method = random_.choice([*METHODS, *METHODS, "POST", "POST", token])
    path = f"/v1/webhooks/{random_.choice(webhooks)}/invoke{random_.choice(PATHS)}{random_.choice(QUERIES)}"
    headers = ["Host: localhost", "Connection: close"]
    headers += [f"{random_.choice(NAMES)}: {random_.choice(VALUES)}" for _ in range(random_.randint(0, 5))]
    if random_.random() < 0.1:
        name, value = random_.choice(LONG)
        headers += [f"{name}: {value}"] * random_.randint(1, 90)
    if random_.random() < 0.8:
        headers.append(f"Content-Type: {random_.choice(TYPES)}")
    body = random_.choice(BODIES) if random_.random() < 0.8 else random_.randbytes(random_.randint(0, 500))
    if random_.random() < 0.3:
        headers.append("Transfer-Encoding: chunked")
        body = chunked(random_, body)
    elif body or random_.random() < 0.5:
        headers.append(f"Content-Length: {len(body)}")
    return "\r\n".join([f"{method} {path} HTTP/1.1", *headers, "", ""]).encode("latin-1") + body


def chunked(random_: random.Random, body: bytes) -> bytes:
    size = random_.choice([1, 7, 1000, 100_000]) if len(body) < 10_000 else 100_000
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    extension = random_.choice(["", ";a=b"])
    return b"".join(b"%x%s\r\n%s\r\n" % (len(one), extension.encode(), one) for one in chunks) + b"0\r\n\r\n"


def answer_to(service: Service, request: bytes, *, ends: bool = False) -> bytes:
    """The whole answer. A request that gets none in time fails the test. With `ends`, the client sends no more."""
    address = urlsplit(service.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as client:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused before its body was read
            client.sendall(request)
            if ends:
                client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := client.recv(65536):
                answer += piece
        return answer


def memory_of(service: Service) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in service.web_processes())


def most_memory_of(service: Service) -> int:
    """The largest memory that the `web` process has had."""
    [pid] = service.web_processes()
    [peak] = re.findall(r"VmHWM:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(peak) * 1024


def test_whatever_arrives_is_answered_below_500_and_soon(service: Service, webhooks: list[str]) -> None:
    print(f"seed {SEED}")
    random_ = random.Random(SEED)
    seen: set[int] = set()
    for _ in range(EXAMPLES):
        request = made_up(random_, webhooks)
        answer = answer_to(service, request)
        found = re.match(rb"HTTP/1\.[01] ([0-9]{3}) ", answer)
        shown = f"{request[:1000]!r}\n{answer[:1000]!r}"
        assert found is not None, shown
        status = int(found[1])
        assert 200 <= status < 500, shown
        _, _, body = answer.partition(b"\r\n\r\n")
        if status >= 400 and not request.startswith(b"HEAD "):
            assert json.loads(body).keys() >= {"faultstring", "faultcode", "debuginfo", "request_id"}, shown
            assert SECRET.encode() not in body
        seen.add(status)
    assert seen >= {200, 202, 400, 401, 403, 404, 405, 413, 429}, "all of these have occurred"


def test_floods_of_refused_deliveries_use_little_memory(service: Service, webhooks: list[str]) -> None:
    signed, limited = webhooks[6], webhooks[9]
    before = memory_of(service)
    for number in range(1500):
        webhook = (signed, limited, f"00000000-0000-4000-8000-{number:012}")[number % 3]
        headers = {"webhook-id": "x" * 255, "X-Hub-Signature-256": f"sha256={number:064}"}
        answer = service.request("POST", f"/v1/webhooks/{webhook}/invoke", data=b"x" * 50_000, headers=headers)
        assert answer.status_code in (202, 401, 404, 429), answer.text
    assert memory_of(service) - before < MOST_GROWTH
    assert len(service.request("GET", f"/v1/webhooks/{signed}/deliveries").json()) == 100


def test_many_large_bodies_at_once_use_bounded_memory(service: Service, webhooks: list[str]) -> None:
    before = memory_of(service)
    bodies = [body for body in BODIES if len(body) > 500_000] * 4
    head = f"POST /v1/webhooks/{webhooks[0]}/invoke HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    with ThreadPoolExecutor(len(bodies)) as senders:
        sent = [
            senders.submit(answer_to, service, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            for body in bodies
        ]
        statuses = {int(one.result()[9:12]) for one in sent}
    assert 202 in statuses
    assert statuses <= {202, 400, 413, 503}, "503: too many large bodies arrive, or are accepted, at once"
    assert most_memory_of(service) - before < MOST_AT_ONCE


def test_a_body_that_was_cut_off_makes_no_execution(service: Service, webhooks: list[str]) -> None:
    def executions() -> int:
        return len(service.request("GET", f"/v1/executions?webhook_id={webhooks[0]}&limit=10000").json())

    before = executions()
    head = f"POST /v1/webhooks/{webhooks[0]}/invoke HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
    for rest in (
        b'Content-Length: 100\r\n\r\n{"a": 1}',
        b'Transfer-Encoding: chunked\r\n\r\n8\r\n{"a": 1}\r\n',
        b'Transfer-Encoding: chunked\r\n\r\n8\r\n{"a":',
        b'Transfer-Encoding: chunked\r\n\r\nx\r\n{"a": 1}\r\n0\r\n\r\n',
    ):
        answer = answer_to(service, head + rest, ends=True)
        assert not answer or re.match(rb"HTTP/1\.1 4[0-9]{2} ", answer), answer
    assert executions() == before
    whole = answer_to(service, head + b'Content-Length: 8\r\n\r\n{"a": 1}', ends=True)
    assert whole.startswith(b"HTTP/1.1 202 "), whole
    assert executions() == before + 1
