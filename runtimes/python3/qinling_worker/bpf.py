"""A small assembler for seccomp filters: classic BPF programs that decide about a system call.

A block is a list of instructions whose every path ends with a return. So blocks can be combined without labels. The
rules themselves are in `seccomp.py`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

_LOAD_WORD, _AND, _RETURN = 0x20, 0x54, 0x06
_EQUAL, _AT_LEAST, _ANY_BIT = 0x15, 0x35, 0x45
_MAX_JUMP = 255
_RET_ALLOW, _RET_ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16


class Instruction(NamedTuple):
    """One instruction (`struct sock_filter`)."""

    code: int
    if_true: int
    if_false: int
    operand: int


def allow() -> list[Instruction]:
    """A block that lets the call go on."""
    return [Instruction(_RETURN, 0, 0, _RET_ALLOW)]


def refuse(errno: int) -> list[Instruction]:
    """A block that makes the call do nothing and fail with `errno`; with 0, it seems to succeed."""
    return [Instruction(_RETURN, 0, 0, _RET_ERRNO | errno)]


def argument_in(
    index: int,
    values: Sequence[int],
    then: list[Instruction],
    otherwise: list[Instruction],
    mask: int | None = None,
) -> list[Instruction]:
    """A block that decides by the lower 32 bits of an argument. The kernel reads no others of an `int`.

    Args:
        index: the position of the argument, from 0.
        values: the values to compare it with.
        then: the block for an argument that is one of them.
        otherwise: the block for all other arguments.
        mask: the bits to compare; None: all 32.
    """
    block = _load_argument(index)
    if mask is not None:
        block.append(Instruction(_AND, 0, 0, mask))
    return block + _any_equal(values, then, otherwise)


def argument_has_bit(index: int, bits: int, then: list[Instruction], otherwise: list[Instruction]) -> list[Instruction]:
    """A block that decides by whether any of `bits` is set in the lower 32 bits of an argument."""
    return [*_load_argument(index), *_branch(_ANY_BIT, bits, then, otherwise)]


def argument_is_null(index: int, then: list[Instruction], otherwise: list[Instruction]) -> list[Instruction]:
    """A block that decides by whether an argument, a pointer of 64 bits, is null."""
    upper = [*_load_argument(index, upper=True), *_any_equal([0], then, otherwise)]
    return [*_load_argument(index), *_any_equal([0], upper, otherwise)]


def program(
    architecture: int,
    wrong: list[Instruction],
    calls: Mapping[int, list[Instruction]],
    last: int,
    unknown: list[Instruction],
) -> bytes:
    """The whole filter, as an array of `struct sock_filter`.

    Args:
        architecture: the architecture (AUDIT_ARCH_*) of the numbers in `calls`. It is checked before any number.
        wrong: the block for calls of another architecture.
        calls: blocks by the numbers of their calls. All other calls up to `last` are allowed.
        last: the highest known number.
        unknown: the block for higher numbers.
    """
    ranges: list[tuple[int, list[Instruction]]] = [(0, allow())]
    for number, block in sorted(calls.items()):
        if ranges[-1][0] == number:
            ranges.pop()
        if not ranges or ranges[-1][1] != block:
            ranges.append((number, block))
        ranges.append((number + 1, allow()))
    ranges = [one for at, one in enumerate(ranges) if at == 0 or one[1] != ranges[at - 1][1]]
    ranges = [one for one in ranges if one[0] <= last]
    ranges.append((last + 1, unknown))
    by_number = [_load(_NUMBER_AT), *_search(ranges)]
    block = [_load(_ARCHITECTURE_AT), *_branch(_EQUAL, architecture, by_number, wrong)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in block)


def _search(ranges: Sequence[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Find the block of a number by binary search: about seven comparisons. The kernel tries all numbers at loading."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    return _branch(_AT_LEAST, ranges[middle][0], _search(ranges[middle:]), _search(ranges[:middle]))


def _any_equal(values: Sequence[int], then: list[Instruction], otherwise: list[Instruction]) -> list[Instruction]:
    block = otherwise
    for value in reversed(values):
        block = _branch(_EQUAL, value, then, block)
    return block


def _branch(comparison: int, operand: int, then: list[Instruction], otherwise: list[Instruction]) -> list[Instruction]:
    if len(otherwise) > _MAX_JUMP:
        raise ValueError(f"a jump over {len(otherwise)} instructions; {_MAX_JUMP} are possible")
    return [Instruction(comparison, len(otherwise), 0, operand & 0xFFFFFFFF), *otherwise, *then]


def _load_argument(index: int, *, upper: bool = False) -> list[Instruction]:
    return [_load(_ARGUMENTS_AT + 8 * index + 4 * upper)]  # little-endian, as x86_64 and aarch64 are


def _load(offset: int) -> Instruction:
    return Instruction(_LOAD_WORD, 0, 0, offset)
