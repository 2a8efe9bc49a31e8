"""Damages files: single bits, spans, lengths, numbers, and the structure of JSON."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_NUMBERS = (
    *("0", "-1", "1", "2147483648", "-9223372036854775809", "18446744073709551616", "9" * 400, "1e999", "-1e-999"),
    *("NaN", "Infinity", "0.5", "1000000000", "00", "1_000", "true"),
)
_VALUES = (
    *("null", "[]", "{}", '""', "true", '"\\u0000"', '"\\ud800"', "[" * 5000, '{"a":' * 5000, "[[[1]]]"),
    *('"' + "x" * 5000 + '"', '"../../etc/passwd"', '"\\u001b[2J"', '"/"'),
)
_PIECES = (
    *(
        b"\0",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\r\n",
        b"\n" * 3,
        b"\t",
        b"\x1b[31m",
        b"\xed\xa0\x80",
        b"{",
        b'"',
        b"<doc id=",
    ),
    *("\u2028\u202e\u0301".encode(), b"\0" * 100, b"A" * 10_000),
)
_NUMBER, _VALUE = re.compile(rb"-?\d+(\.\d+)?([eE][-+]?\d+)?"), re.compile(rb'"[^"\n]*"|\[[^\[\]\n]*\]|true|false|null')
_Mutation = Callable[[bytes, random.Random], bytes]


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The data with one to three random damages."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_MUTATIONS)(data, rng)
    return data


def _span(data: bytes, rng: random.Random, longest: int = 64) -> tuple[int, int]:
    begin = rng.randrange(len(data) + 1)
    return begin, min(len(data), begin + rng.randrange(1, longest))


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    place = rng.choice((rng.randrange(len(data)), rng.randrange(min(len(data), 200))))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def _delete(data: bytes, rng: random.Random) -> bytes:
    begin, end = _span(data, rng)
    return data[:begin] + data[end:]


def _repeat(data: bytes, rng: random.Random) -> bytes:
    begin, end = _span(data, rng)
    return data[:end] + data[begin:end] * rng.choice((1, 2, 50)) + data[end:]


def _truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(_PIECES) + data[place:]


def _integer(data: bytes, rng: random.Random) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    place = rng.choice((0, rng.randrange(max(1, len(data) - width))))
    value = rng.choice(
        (0, 1, (1 << 8 * width) - 1, 1 << 8 * width - 1, (1 << 8 * width - 1) - 1, rng.getrandbits(8 * width))
    )
    return data[:place] + value.to_bytes(width, "little") + data[place + width :]


def _replace(pattern: re.Pattern[bytes], others: tuple[str, ...]) -> _Mutation:
    def replace(data: bytes, rng: random.Random) -> bytes:
        found = [match.span() for match in pattern.finditer(data[: 1 << 16])]
        if not found:
            return _flip(data, rng)
        begin, end = rng.choice(found)
        return data[:begin] + rng.choice(others).encode() + data[end:]

    return replace


def _swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines)


_MUTATIONS: tuple[_Mutation, ...] = (
    *(_flip, _flip, _delete, _repeat, _truncate, _insert, _integer, _swap_lines),
    *(_replace(_NUMBER, _NUMBERS), _replace(_VALUE, _VALUES), _replace(_VALUE, _NUMBERS)),
)
