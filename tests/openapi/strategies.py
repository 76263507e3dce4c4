"""What no schema can say: packages, cron patterns, times, URLs of callbacks, origins, and the ids of what is there."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis.generation import GenerationMode
from schemathesis.generation.meta import TestPhase

from qinling_falcon.openapi.fields import CALLBACK, CODE_TEXT, CRON, ORIGIN, TIME, ZONE
from tests.api.client import package
from tests.storage.archives import make_zip

Things = Mapping[str, Sequence[str]]

_GOOD = [package(), package("def main(name):\n    return name\n"), make_zip({"main.py": b"", "a/b": b"-" * 5000})]
_BROKEN = [
    b"",
    b"no zip",
    package()[:-10],
    package() * 2,
    make_zip({}),
    make_zip({"../main.py": b""}),
    make_zip({"/main.py": b""}),
    make_zip({"zeros": b"\0" * 300_000}),
]
packages = st.sampled_from(_GOOD) | st.sampled_from(_BROKEN) | st.binary(max_size=200)


def _field(low: int, high: int, *more: str) -> st.SearchStrategy[str]:
    number = st.integers(low, high).map(str)
    spans = st.tuples(number, number).map("-".join)
    item = st.one_of(st.sampled_from(["*", *more]), number, spans)
    stepped = st.tuples(item, st.integers(1, 30)).map(lambda pair: f"{pair[0]}/{pair[1]}")
    return st.lists(item | stepped, min_size=1, max_size=3).map(",".join)


patterns = st.tuples(
    _field(0, 59), _field(0, 23), _field(1, 31, "L"), _field(1, 12, "JAN", "feb"), _field(0, 7, "SUN", "mon#1")
).map(" ".join)
zones = st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "US/Eastern"])
times = st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(9000, 1, 1)).map(str)
md5s = st.text("0123456789abcdef", min_size=32, max_size=32)
_hosts = st.sampled_from(["hooks.example", "HOOKS.example.", "8.8.8.8", "[2606:4700::1111]", "a_b.example"])
callbacks = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https", "HTTPS"]),
    _hosts,
    st.sampled_from(["", ":1", ":8443", ":65535"]),
    st.sampled_from(["", "/", "/a/b%20c", "?x=y", "/a?b=@:c"]),
)
origins = st.sampled_from(["*", "https://shop.example", "http://localhost:3000", "https://[::1]:8443", "null://x"])
codes = st.one_of(
    st.just({"source": "package"}),
    st.fixed_dictionaries({"source": st.just("package"), "md5sum": md5s}),
    st.just({"source": "image", "image": "registry.example/x:1"}),
    st.just({"source": "swift", "swift": {"container": "c", "object": "o"}}),
).map(json.dumps)


def register() -> None:
    """Have them used by every run of this process."""
    schemathesis.openapi.format(CRON, patterns)
    schemathesis.openapi.format(ZONE, zones)
    schemathesis.openapi.format(TIME, times)
    schemathesis.openapi.format(CALLBACK, callbacks)
    schemathesis.openapi.format(CODE_TEXT, codes)
    schemathesis.openapi.format(ORIGIN, origins)
    schemathesis.openapi.media_type("application/zip", packages)


def aim(schema: Any, things: Things) -> None:
    """Have the valid ids of most requests replaced by those of things that are there."""

    @schema.hook("before_generate_case")
    def aimed(context: Any, strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return _aimed(strategy, things)


@st.composite
def _aimed(draw: st.DrawFn, cases: st.SearchStrategy[Any], things: Things) -> Any:
    case = draw(cases)
    meta = case.meta
    if meta is None or meta.phase.name is not TestPhase.FUZZING or meta.generation.mode is not GenerationMode.POSITIVE:
        return case
    for place in (case.path_parameters, case.query, case.body):
        if isinstance(place, dict):
            for name in place.keys() & things.keys():
                if draw(st.integers(0, 4)):
                    place[name] = draw(st.sampled_from(things[name]))
    return case
