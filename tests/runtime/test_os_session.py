"""What a function finds in its context when a session was sent along; sessions that work are tested with Keystone."""

from __future__ import annotations

import pytest

from tests.runtime.client import Worker

TOKEN = "a-token-that-nobody-is-to-see"
OPENSTACK = {"auth_url": "http://127.0.0.1:1/v3", "token": TOKEN, "about": {"methods": ["token"]}}
# Stands for keystoneauth1, and shows what it is given.
BUNDLED = {
    "keystoneauth1/__init__.py": "",
    "keystoneauth1/access.py": "class AccessInfoV3: pass",
    "keystoneauth1/identity/__init__.py": "",
    "keystoneauth1/identity/base.py": """
class BaseIdentityPlugin:
    def __init__(self, **arguments):
        self.arguments = arguments
""",
    "keystoneauth1/session.py": """
made = []
class Session:
    def __init__(self, auth):
        made.append(auth.arguments)
""",
}


def test_without_a_trust_there_is_none_and_why_is_said(worker: Worker) -> None:
    worker.load("def main(context):\n    return [context['os_session'], context['os_session_error']]\n")
    assert worker.execute().output == [None, "the function has no trust"]


def test_the_reason_of_whoever_could_get_none_is_passed_on(worker: Worker) -> None:
    worker.load(
        BUNDLED | {"main.py": "def main(context):\n    return [context['os_session'], context['os_session_error']]\n"}
    )
    assert worker.execute(openstack={"error": "Keystone is away"}).output == [None, "Keystone is away"]


def test_a_package_without_keystoneauth1_has_none(worker: Worker) -> None:
    worker.load(
        """
def main(context):
    return ['os_session' in context, context.get('os_session'), context.get('os_session_error')]
"""
    )
    known, session, error = worker.execute(openstack=OPENSTACK).output
    assert (known, session) == (True, None)
    assert error.startswith("the function's package has no keystoneauth1: ")


def test_a_session_is_made_once_and_when_it_is_asked_for(worker: Worker) -> None:
    worker.load(
        BUNDLED
        | {
            "main.py": """
import sys
def main(context):
    before = 'keystoneauth1' in sys.modules
    session = context['os_session']
    again = [context['os_session'], context.get('os_session')]
    error = context['os_session_error']
    from keystoneauth1.session import made
    return [before, [each is session for each in again], error, made]
"""
        }
    )
    made = [{"auth_url": OPENSTACK["auth_url"], "reauthenticate": False}]
    assert worker.execute(openstack=OPENSTACK).output == [False, [True, True], None, made]


@pytest.mark.parametrize("asked", ["", "context['os_session']"])
def test_a_context_that_is_shown_shows_no_token(worker: Worker, asked: str) -> None:
    worker.load(
        BUNDLED
        | {
            "main.py": f"""
import json
def main(context):
    {asked}
    print(context, dict(context), list(context.items()))
    print(json.dumps(context, default=str), f'{{context!r}}')
    return {{key: str(value) for key, value in context.items()}}
"""
        }
    )
    answer = worker.execute(openstack=OPENSTACK, execution_id="0f1e")
    assert answer.output["execution_id"] == "0f1e"
    assert answer.printed.count("0f1e") == 5
    assert TOKEN not in answer.printed + str(answer.output)
