"""Runs `openstack` commands in forks of one process, because loading the real client takes a second each time.

It runs in the client's environment: `python openstack_server.py SOCKET`, with the path of the Unix socket to listen on.
The command `openstack_command.py` sends a request for each command: arguments, folder and environment, and with it the
descriptors 0 to 2. The fork answers with the exit status.
"""

import json
import os
import signal
import socket
import sys

from inside import load_shell

LARGEST = 1 << 17


def main(path):
    shell = load_shell()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no fork stays as a zombie
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(16)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                run(shell, connection)
            connection.close()


def run(shell, connection):
    """Run one command and end this process."""
    status = 1
    try:
        request, standard, _, _ = socket.recv_fds(connection, LARGEST, 3)
        asked = json.loads(request)
        for place, descriptor in enumerate(standard):
            os.dup2(descriptor, place)
            os.close(descriptor)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.chdir(asked["folder"])
        os.environ.clear()
        os.environ.update(asked["environ"])
        sys.argv = ["openstack", *asked["argv"]]
        status = shell.main(asked["argv"])
    except SystemExit as error:  # of the parser of arguments
        status = error.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(str(status or 0).encode())
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
