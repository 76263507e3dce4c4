"""`POLICY_FILE`: overrides of the rules, refused at the start where oslo.policy would take one for something else.

oslo.policy by itself takes what it can't understand for 'nobody', and what it doesn't know for what is never so: a rule
that was misspelled would shut users out, or, after a `not`, let them in.
"""

from __future__ import annotations

import ast
import graphlib
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from oslo_policy import policy

from qinling_falcon.settings import SettingsError

_NOBODY = "!"
# What a check may look at, and the parts of its target.
_ROLE = re.compile(r"[A-Za-z0-9._ :/-]+")
_KINDS = ("project_id", "role", "rule", "user_id")
_TARGET = re.compile(r"%\((?:project_id|user_id)\)s")
# Checks in one another, those of the rules that they name too. oslo.policy decides by recursion.
_DEEPEST = 50
_TOO_DEEP = f"expected at most {_DEEPEST} checks and rules in one another"


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """Refuses a name that is given twice, of which YAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name} is there twice", key.start_mark)
            seen.add(name)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read(path: Path, defaults: Mapping[str, str]) -> policy.Rules:
    """The defaults with the file's rules in their place.

    A name of the file's own is a part of other rules; when none uses it, it is a name that was misspelled.

    Raises:
        SettingsError: naming the file, the rule, and what was expected of it.
    """
    overrides = _read_yaml(path)
    logging.getLogger("oslo_policy").setLevel(logging.CRITICAL)  # what it can't understand, is said below
    rules = _parsed(path, dict(defaults) | overrides)
    named = {name: set(_named(rules[name])) for name in rules}
    for name, text in overrides.items():
        about = f"POLICY_FILE={path}: {name}: "
        if name not in defaults and not any(name in others for others in named.values()):
            raise SettingsError(f"{about}expected the name of a rule (docs/policy.md), or one that another rule uses")
        if _depth(rules[name], {}) > _DEEPEST:
            raise SettingsError(f"{about}{_TOO_DEEP}")
        if not _is_understood(text, rules[name]):
            raise SettingsError(f"{about}expected a rule in oslo.policy's syntax, not {text!r}")
        for check in _parts(rules[name]):
            if problem := _problem(check):
                raise SettingsError(f"{about}{check}: {problem}")
        if missing := sorted(named[name] - rules.keys()):
            raise SettingsError(f"{about}rule:{missing[0]}: expected the name of a rule; there is none of this name")
    for name in overrides:
        if _leads_to(name, named):
            raise SettingsError(f"POLICY_FILE={path}: {name}: expected a rule that does not, in the end, name itself")
    depths: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(named).static_order():
        depths[name] = _depth(rules[name], depths)
        if depths[name] > _DEEPEST:
            raise SettingsError(f"POLICY_FILE={path}: {name}: {_TOO_DEEP}")
    return rules


def _parsed(path: Path, texts: Mapping[str, str]) -> policy.Rules:
    rules = policy.Rules()
    for name, text in texts.items():
        try:
            rules |= policy.Rules.from_dict({name: text})
        except RecursionError:
            raise SettingsError(f"POLICY_FILE={path}: {name}: {_TOO_DEEP}") from None
    return rules


def _read_yaml(path: Path) -> dict[str, str]:
    try:
        found = yaml.load(path.read_text("utf-8"), _Loader)
    except OSError as error:
        raise SettingsError(f"POLICY_FILE={path}: expected a file that can be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" (line {error.problem_mark.line + 1})"
        raise SettingsError(f"POLICY_FILE={path}: expected YAML: {error.problem}{line}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise SettingsError(f"POLICY_FILE={path}: expected YAML: {reason}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise SettingsError(f"POLICY_FILE={path}: expected rules by name")
    for name, text in found.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise SettingsError(f'POLICY_FILE={path}: {name}: expected a rule as text, such as "role:member"')
    return found


def _is_understood(text: str, rule: Any) -> bool:
    """Whether oslo.policy understood all of a rule: what it doesn't, becomes a `!` that the text doesn't have."""
    if str(rule) == _NOBODY:
        return re.sub(r"[\s()]", "", text) == _NOBODY
    found = sum(str(check) == _NOBODY for check in _parts(rule))
    return found == re.split(r"[\s()]+", text).count(_NOBODY)


def _problem(check: Any) -> str:
    """What is wrong with one check; empty: nothing."""
    if not isinstance(check, policy.Check):
        return ""
    if check.kind not in _KINDS and not _is_literal(check.kind):
        return f"expected one of {', '.join(_KINDS)} before the colon"
    if not check.match:
        return "expected something after the colon"
    if check.kind == "role" and not _ROLE.fullmatch(check.match):
        return "expected the name of a role, without quotes or other signs"
    if "%" in _TARGET.sub("", check.match):
        return "expected no other %(…)s than %(project_id)s and %(user_id)s"
    return ""


def _is_literal(kind: str) -> bool:
    """Whether the left side of a check is a text that is compared with a part of the target, as `'x':%(user_id)s`."""
    try:
        return isinstance(ast.literal_eval(kind), str)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: nested too deeply
        return False


def _parts(rule: Any) -> Iterator[Any]:
    """A rule and all checks in it."""
    waiting = [rule]
    while waiting:
        check = waiting.pop()
        yield check
        waiting += _inside(check)


def _inside(check: Any) -> list[Any]:
    """The checks of which one is made."""
    return [check.rule] if isinstance(check, policy.NotCheck) else list(getattr(check, "rules", ()))


def _depth(rule: Any, of_others: Mapping[str, int]) -> int:
    """How many checks lie in one another in a rule; with what those of other rules add, where it names them."""
    deepest = 0
    waiting = [(rule, 1)]
    while waiting:
        check, depth = waiting.pop()
        more = of_others.get(check.match, 0) if isinstance(check, policy.RuleCheck) else 0
        deepest = max(deepest, depth + more)
        waiting += [(part, depth + 1) for part in _inside(check)]
    return deepest


def _named(rule: Any) -> Iterator[str]:
    """The rules that a rule names."""
    return (check.match for check in _parts(rule) if isinstance(check, policy.RuleCheck))


def _leads_to(name: str, named: Mapping[str, set[str]]) -> bool:
    """Whether a rule names itself, by way of others or not."""
    seen: set[str] = set()
    waiting = [*named[name]]
    while waiting:
        other = waiting.pop()
        if other not in seen:
            seen.add(other)
            waiting += named[other]
    return name in seen
