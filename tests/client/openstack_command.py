"""The command `openstack` for shell scripts, which `openstack_server.py` runs. OPENSTACK_SERVER is its socket."""

import json
import os
import socket
import sys

with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
    connection.connect(os.environ["OPENSTACK_SERVER"])
    request = {"argv": sys.argv[1:], "folder": os.getcwd(), "environ": dict(os.environ)}
    socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
    sys.exit(int(connection.recv(16) or 1))
