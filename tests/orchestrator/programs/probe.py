"""A small worker program for these tests: it speaks `/ping`, and tries what it is asked to try.

`POST /try` runs the body as Python, with the worker's configuration as `config`, and answers with the JSON of its
variable `answer`, or with what it raised; with `X-As: child` in a forked process under the second uid, as user code is.
"""

import json
import os
import socket
import sys


def main(listen_fd: int, config_fd: int) -> None:
    with os.fdopen(config_fd, "rb") as pipe:
        config = json.loads(pipe.read())
    server = socket.socket(fileno=listen_fd)
    while True:
        connection, _ = server.accept()
        with connection:
            serve(connection, config)


def serve(connection: socket.socket, config: dict) -> None:
    stream = connection.makefile("rb")
    method, path, _ = stream.readline().decode().split()
    headers = {}
    while line := stream.readline().strip().decode():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if (method, path) == ("GET", "/ping"):
        answer = {"ready": True}
    elif headers.get("x-worker-secret") != config["secret"]:
        answer = {"error": "secret"}
    else:
        code = stream.read(int(headers["content-length"])).decode()
        answer = attempt(code, config, as_child=headers.get("x-as") == "child")
    body = json.dumps(answer).encode()
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def attempt(code: str, config: dict, *, as_child: bool) -> object:
    if not as_child:
        return run(code, config)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        for entrance in config["entrances"]:
            os.write(entrance, b"0")
        uid = config["child_uid"]
        if uid is not None:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            drop_capabilities()
        os.write(writer, json.dumps(run(code, config)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else {"status": status}


def run(code: str, config: dict) -> object:
    names = {"config": config}
    try:
        exec(code, names)
    except BaseException as error:
        return {"raised": f"{type(error).__name__}: {error}", "errno": getattr(error, "errno", None)}
    return names.get("answer")


def drop_capabilities() -> None:
    import ctypes

    libc = ctypes.CDLL(None)
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc.capset(header, none)


if sys.argv[1] == "--zygote-fd":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from qinling_worker.zygote import Zygote

    Zygote(
        socket.socket(fileno=int(sys.argv[2])), lambda listen_fd, config_fd, _group_fd: main(listen_fd, config_fd)
    ).run()
main(int(sys.argv[2]), int(sys.argv[4]))
