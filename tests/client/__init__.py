"""The client that users have, python-qinlingclient 5.1.1 with its `openstack` commands, against a running service."""
