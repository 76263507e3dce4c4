"""What a process remembers is bounded."""

from __future__ import annotations

from qinling_falcon.bounded import BoundedCache


def test_the_values_that_were_used_last_are_kept() -> None:
    cache: BoundedCache[str, int] = BoundedCache(2)
    cache.put("a", 1)
    cache.put("b", 2)
    assert cache.get("a") == 1
    cache.put("c", 3)
    assert [cache.get(key) for key in "abc"] == [1, None, 3]


def test_a_value_is_forgotten_when_its_time_is_over() -> None:
    cache: BoundedCache[str, int] = BoundedCache(2)
    cache.put("a", 1, until=10)
    assert cache.get("a", now=9.9) == 1
    assert cache.get("a", now=10) is None
    assert "a" not in cache


def test_a_key_that_is_put_again_has_its_new_value_and_counts_once() -> None:
    cache: BoundedCache[str, bytes] = BoundedCache(10, len)
    cache.put("a", b"12345678")
    cache.put("a", b"1234")
    cache.put("b", b"123456")
    assert (cache.get("a"), cache.get("b"), len(cache)) == (b"1234", b"123456", 2)


def test_sizes_count_where_they_are_measured() -> None:
    cache: BoundedCache[str, bytes] = BoundedCache(10, len)
    cache.put("a", b"1234")
    cache.put("b", b"1234")
    cache.put("c", b"1234")
    assert [key in cache for key in "abc"] == [False, True, True]
    cache.put("d", b"12345678901")
    assert [key in cache for key in "bcd"] == [True, True, False]
    cache.pop("b")
    cache.pop("b")
    cache.put("e", b"123456")
    assert [key in cache for key in "ce"] == [True, True]
