#!/usr/bin/env python3
"""Writes cohort_vectors.txt: the frozen hash, version 1, by an implementation that shares no code with grayling.

    pip install xxhash && python3 tests/data/cohort_vectors.py > tests/data/cohort_vectors.txt

The hash is from the reference C library of xxHash (PyPI `xxhash`), the scaling is Python's own integers:

    seed   = xxh3_64(salt as UTF-8 bytes)
    h      = xxh3_64_with_seed(user id bytes, seed)
    bucket = (h * 1_000_000) >> 64

Everything is drawn from a fixed seed, so running it twice writes the same file. With --check it compares instead.
"""
import pathlib
import random
import sys

import xxhash

SALTS = ["", "cbs-v2", "invoices", "a", "Ünïcödé-соль-塩", "2026-11-23T06:02:11Z", "x" * 300]
# The lengths at which XXH3 changes its path, and one on each side of them.
LENGTHS = [0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 192, 239, 240, 241,
           255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 2047, 2048, 3000, 4095, 4096]


def bucket(salt: str, user_id: bytes) -> int:
    seed = xxhash.xxh3_64_intdigest(salt.encode())
    return (xxhash.xxh3_64_intdigest(user_id, seed=seed) * 1_000_000) >> 64


def ids(salt_index: int):
    rng = random.Random(20261123 + salt_index)
    for length in LENGTHS:
        yield rng.randbytes(length)
    for length in (1, 4, 16, 240, 4096):
        yield bytes(length)
        yield b"\xff" * length
    yield from (b"\xc3\x28", b"\xed\xa0\x80", b"\xf0\x28\x8c\x28", b"\x80", b"a\x00b")  # never valid UTF-8, and a NUL
    yield from (b"alice", b"bob", "ålice".encode(), "用户".encode(), b" alice ", b"Alice", b"+49 30 1234")
    for n in range(60):
        yield f"user-{n}".encode()
    for _ in range(40):
        yield str(rng.randrange(10**9, 10**11)).encode()
    for _ in range(20):
        yield rng.randbytes(rng.randrange(1, 64))


def vectors() -> str:
    lines = [
        "# The hash that decides a user's bucket, version 1. Frozen: a change of one line moves users, and is a bug.",
        "# Written by cohort_vectors.py. Columns: salt (hex of its UTF-8), user id (hex), bucket; '-' is the empty string.",
    ]
    for index, salt in enumerate(SALTS):
        for user_id in ids(index):
            lines.append(f"{salt.encode().hex() or '-'} {user_id.hex() or '-'} {bucket(salt, user_id)}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = vectors()
    if "--check" in sys.argv[1:]:
        sys.exit(0 if (pathlib.Path(__file__).parent / "cohort_vectors.txt").read_text() == text else "they differ")
    sys.stdout.write(text)
