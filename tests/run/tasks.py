"""Tasks that tests hand to RQ."""

import time

import redis


def note(url: str, key: str, value: str) -> None:
    """Say in Redis that the task ran."""
    redis.Redis.from_url(url).rpush(key, value)


def wait_and_note(url: str, key: str) -> None:
    """Say that the task began, wait for a word to go on, say that it ended."""
    client = redis.Redis.from_url(url)
    client.rpush(key, "began")
    while not client.get(key + ":go-on"):
        time.sleep(0.02)
    client.rpush(key, "ended")


def fail() -> None:
    """Raise."""
    raise RuntimeError("on purpose")
