"""Makes calls of the real client, and runs its commands; runs in the client's environment, and knows nothing of ours.

Reads a JSON object a line, answers each with one line:

    {"manager", "method", "args", "kwargs", "session"}   a call of the library; through a keystoneauth1 session or not
        {"value": …}, or {"error": {"class", "code", "message"}}
    {"argv", "folder"}                                   a command, as `openstack ARGV` in that folder
        {"value": {"status", "stdout", "stderr"}}
    {"inventory": true}                                  what there is to be called
        {"value": {"methods": ["manager.method", …], "commands": ["function list", …], "columns": {"function": […], …}}}

Of arguments, {"$file": path} is that file, opened. Of results, a resource is its fields, an HTTP response
{"status", "headers", "body" in base64}.
"""

import base64
import contextlib
import functools
import inspect
import itertools
import json
import os
import sys
import tempfile
from importlib import metadata

import requests
from keystoneauth1 import noauth, session
from keystoneauth1.identity import v3
from qinlingclient.client import Client
from qinlingclient.common.base import Manager, Resource
from qinlingclient.osc.v1 import base

COMMANDS = "openstack.function_engine.v1"
PLUGINS = ("openstack.", "cliff.")


def main(url):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print is no answer
    if url:
        clients = {
            False: Client("1", url),
            True: Client("1", url, session=session.Session(auth=noauth.NoAuth())),
        }
    else:
        clients = {True: of_account()}
    for line in sys.stdin:
        request = json.loads(line)
        if "inventory" in request:
            answer = {"value": inventory(clients[True])}
        elif "argv" in request:
            answer = {"value": command(request["argv"], request["folder"])}
        else:
            answer = call(clients[request["session"]], request)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def of_account():
    """The client of the account in OS_* variables, at the endpoint that Keystone names."""
    names = "auth_url", "username", "password", "user_domain_name", "project_name", "project_domain_name"
    opened = session.Session(auth=v3.Password(**{name: os.environ[f"OS_{name.upper()}"] for name in names}))
    return Client("1", opened.get_endpoint(service_type="function-engine"), session=opened)


def call(client, request):
    """Call the library; what it raises is an answer too."""
    method = getattr(getattr(client, request["manager"]), request["method"])
    with contextlib.ExitStack() as files:

        def given(value):
            if isinstance(value, dict) and "$file" in value:
                return files.enter_context(open(value["$file"], "rb"))
            return value

        args = [given(value) for value in request["args"]]
        kwargs = {name: given(value) for name, value in request["kwargs"].items()}
        try:
            return {"value": plain(method(*args, **kwargs))}
        except Exception as error:
            code = getattr(error, "code", None)
            return {"error": {"class": type(error).__name__, "code": code, "message": str(error)}}


def plain(value):
    if isinstance(value, Resource):
        return value.to_dict()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, requests.Response):
        body = base64.b64encode(value.content).decode()
        return {"status": value.status_code, "headers": dict(value.headers), "body": body}
    return value


def command(argv, folder):
    """Run `openstack ARGV` in a fork of this process: loading it takes a second, and is done once."""
    shell = load_shell()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()  # or the child would write it again
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                os.chdir(folder)
                sys.argv = ["openstack", *argv]
                status = shell.main(argv)
            except SystemExit as error:  # of the parser of arguments
                status = error.code
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return {"status": os.waitstatus_to_exitcode(status), "stdout": texts[0], "stderr": texts[1]}


@functools.cache
def load_shell():
    from openstackclient import shell

    # Whatever the shell finds installed, it loads.
    groups = (group for group in metadata.entry_points().groups if group.startswith(PLUGINS))
    for point in itertools.chain.from_iterable(metadata.entry_points(group=group) for group in groups):
        with contextlib.suppress(ImportError):  # cliff names an example that is not there
            point.load()
    return shell


def inventory(client):
    """Every public method of every manager, every command that the package adds, and the columns that these print."""
    managers = {name: value for name, value in vars(client).items() if isinstance(value, Manager)}
    methods = [
        f"{name}.{method}"
        for name, manager in managers.items()
        for method, _ in inspect.getmembers(manager, inspect.ismethod)
        if not method.startswith("_")
    ]
    commands = [point.name.replace("_", " ") for point in metadata.entry_points(group=COMMANDS)]
    columns = {
        name.removesuffix("_COLUMNS").lower(): list(value)
        for name, value in vars(base).items()
        if name.endswith("_COLUMNS")
    }
    return {"methods": methods, "commands": commands, "columns": columns}


if __name__ == "__main__":
    main(sys.argv[1])
