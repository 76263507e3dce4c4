"""Requests that the service sends: their URLs, the check of their addresses, their signatures, and the sender."""
