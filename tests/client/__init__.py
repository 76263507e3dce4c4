"""The client that users have, python-qinlingclient 5.1.1 with its `openstack` commands, against a running service.

What it can do and the service can't yet stands, skipped, in `test_not_yet.py`.
"""
