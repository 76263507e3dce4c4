"""Qinling-Falcon: the OpenStack Qinling Function Engine API on a warm pool of sandboxed workers."""
