"""Exact duplicates in a corpus of any size, by 64-bit hashes, in bounded memory.

Pieces write down the hashes of what they hold; bucket by bucket, equal hashes are found over all pieces and all but the
first are marked; pieces then leave out what is marked. (Among a billion different lines two have the same hash with a
chance of about 3 %, and one line would be lost.)
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from data.preparation.pieces import Progress

_HASH_BYTES = 128  # that one takes, at most, while equal ones are found


def hash_texts(texts: Iterable[str]) -> np.ndarray:
    """uint64 [texts]"""
    return np.frombuffer(b"".join(blake2b(text.encode(), digest_size=8).digest() for text in texts), "<u8")


def duplicates_share(hash_files: Sequence[Path]) -> float:
    """The share of texts that are equal to an earlier one, from files small enough to be read together."""
    hashes = np.concatenate([np.empty(0, "<u8"), *(np.fromfile(file, "<u8") for file in hash_files)])
    return 1 - len(np.unique(hashes)) / max(1, len(hashes))


def mark_duplicates(hash_files: Sequence[Path], mark_files: Sequence[Path], memory_mb: int) -> int:
    """Writes for each piece which of its texts equal an earlier one of any piece (bool [texts]); returns how many."""
    sizes = [file.stat().st_size // 8 for file in hash_files]
    buckets = 1 << (sum(sizes) * _HASH_BYTES // (memory_mb << 20)).bit_length()
    for file, size in zip(mark_files, sizes, strict=True):
        file.write_bytes(bytes(size))
    found = 0
    with Progress("find duplicates", sum(sizes), "texts") as progress:
        for bucket in range(buckets):  # by a hash's lowest bits
            hashes, owners, places = [], [], []
            for number, file in enumerate(hash_files):
                mine = np.memmap(file, "<u8", "r") if sizes[number] else np.empty(0, "<u8")
                (here,) = np.nonzero(mine & np.uint64(buckets - 1) == bucket)
                hashes.append(mine[here])
                owners.append(np.full(len(here), number, np.int32))
                places.append(here)
            together = np.concatenate(hashes)
            is_repeated = np.ones(len(together), bool)
            is_repeated[np.unique(together, return_index=True)[1]] = False
            found += int(is_repeated.sum())
            owner, place = (np.concatenate(each)[is_repeated] for each in (owners, places))
            numbers, starts = np.unique(owner, return_index=True)
            for number, mine in zip(numbers.tolist(), np.split(place, starts)[1:], strict=True):
                marks = np.memmap(mark_files[number], bool, "r+")
                marks[mine] = True
                marks.flush()
            progress.update(len(together))
    return found
