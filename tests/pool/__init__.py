import pytest

pytest.register_assert_rewrite("tests.pool.machine", "tests.pool.invariants", "tests.pool.faults")
