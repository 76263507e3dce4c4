"""`context` goes to the callables that take it themselves."""

from __future__ import annotations

import pytest

from tests.runtime.client import Worker

COMMON = """
import functools
def forwarding(function):
    @functools.wraps(function)
    def inner(*args, **kwargs): return function(*args, **kwargs)
    return inner
def narrow(function):
    @functools.wraps(function)
    def inner(name): return function(name, context="mine")
    return inner
def wide(function):
    @functools.wraps(function)
    def inner(name, context): return [*function(name), "execution_id" in context]
    return inner
def with_context(name, context): return [name, context if context == "mine" else "execution_id" in context]
def without_context(name): return [name]
def with_kwargs(name, **kwargs): return [name, sorted(kwargs)]
class Plain:
    def method(self, name, context): return with_context(name, context)
    @forwarding
    def wrapped(self, name): return [name]
    @classmethod
    def of_class(cls, name, context): return with_context(name, context)
    @staticmethod
    def static(name, context): return with_context(name, context)
class Called:
    @forwarding
    def __call__(self, name): return [name]
class Hidden:
    def __call__(self, name, context): return with_context(name, context)
class Text(str):
    def __new__(cls, name, context): return str.__new__(cls, [name, "execution_id" in context])
class Proxy:
    def __init__(self, wrapped): self.__wrapped__ = wrapped
    def __call__(self, *args, **kwargs): return self.__wrapped__(*args, **kwargs)
def signed(*args, **kwargs): return [*args, *kwargs.values()]
import inspect
signed.__signature__ = inspect.signature(without_context)
def taken(context, /, name="", **kwargs): return [name, sorted(kwargs)]
"""


@pytest.mark.parametrize(
    ("entry", "output"),
    [
        ("narrow(with_context)", ["Ada", "mine"]),
        ("narrow(forwarding(with_context))", ["Ada", "mine"]),
        ("forwarding(narrow(with_context))", ["Ada", "mine"]),
        ("wide(without_context)", ["Ada", True]),
        ("forwarding(wide(without_context))", ["Ada", True]),
        ("forwarding(with_context)", ["Ada", True]),
        ("forwarding(without_context)", ["Ada"]),
        ("forwarding(with_kwargs)", ["Ada", ["context"]]),
        ("functools.partial(with_context)", ["Ada", True]),
        ("functools.partial(with_context, context='mine')", ["Ada", "mine"]),
        ("functools.partial(forwarding(with_context), context='mine')", ["Ada", "mine"]),
        ("functools.partial(forwarding(without_context))", ["Ada"]),
        ("functools.partial(functools.partial(with_kwargs), more=1)", ["Ada", ["context", "more"]]),
        ("functools.partial(lambda context, name: [name, context], 'mine')", ["Ada", "mine"]),
        ("Plain().method", ["Ada", True]),
        ("Plain().wrapped", ["Ada"]),
        ("Plain.of_class", ["Ada", True]),
        ("Plain.static", ["Ada", True]),
        ("Called()", ["Ada"]),
        ("Hidden()", ["Ada", True]),
        ("Text", "['Ada', True]"),
        ("Proxy(without_context)", ["Ada"]),
        ("Proxy(with_context)", ["Ada", True]),
        ("functools.lru_cache(maxsize=None)(without_context)", ["Ada"]),
        ("signed", ["Ada"]),
        ("dict", {"name": "Ada"}),
        ("lambda *, name, context: [name, context['timeout']]", ["Ada", 10]),
    ],
)
def test_context_goes_to_what_the_entry_takes_itself(worker: Worker, entry: str, output: object) -> None:
    worker.load(f"{COMMON}\nmain = {entry}\n")
    for _ in range(2):
        answer = worker.execute('{"name": "Ada"}')
        assert (answer.output, answer.message) == (output, None)


def test_a_positional_parameter_of_that_name_is_no_keyword(worker: Worker) -> None:
    worker.load("def main(context, /): return context\n")
    assert worker.execute("text").output == "text"


@pytest.mark.parametrize(
    ("code", "path"),
    [
        ("def main(**kwargs): return kwargs", "result.context.remaining_s"),
        ("def main(name, context): return [{'seen': context}]", "result[0].seen.remaining_s"),
        ("def main(**kwargs): return locals()", "result.kwargs.context.remaining_s"),
    ],
)
def test_a_result_with_the_context_in_it_names_the_member(worker: Worker, code: str, path: str) -> None:
    worker.load(code)
    for openstack in (None, {"error": "no Keystone"}):
        answer = worker.execute('{"name": "Ada"}', openstack=openstack)
        assert answer.reason == "result"
        assert answer.output == (
            f"The result can't be JSON: {path} is of type function. The context can't be returned whole: return the "
            "members that you need, and call this one."
        )
