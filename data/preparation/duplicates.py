"""Finds exact duplicates in a corpus of any size, by 64-bit hashes, in bounded memory.

Each piece writes the hashes of its texts to a file. Bucket by bucket, equal hashes of all pieces are found, and all but
the first are marked. Each piece then drops its marked texts. (Among a billion different lines, the probability
that two have the same hash, so that one is lost, is about 3 %.)
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from utils.progress import Progress

_HASH_BYTES = 128  # maximum memory per hash while duplicates are found


def hash_texts(texts: Iterable[str]) -> np.ndarray:
    """The hash of each text, uint64 [texts]."""
    return np.frombuffer(b"".join(blake2b(text.encode(), digest_size=8).digest() for text in texts), "<u8")


def duplicates_share(hash_files: Sequence[Path]) -> float:
    """The fraction of texts that equal an earlier one; all files together must fit in memory."""
    hashes = np.concatenate([np.empty(0, "<u8"), *(np.fromfile(file, "<u8") for file in hash_files)])
    return 1 - len(np.unique(hashes)) / max(1, len(hashes))


def mark_duplicates(hash_files: Sequence[Path], mark_files: Sequence[Path], memory_mb: int) -> int:
    """Write for each piece which of its texts equal an earlier text of any piece, bool [texts]; return their number."""
    sizes = [file.stat().st_size // 8 for file in hash_files]
    buckets = 1 << (sum(sizes) * _HASH_BYTES // (memory_mb << 20)).bit_length()
    for file, size in zip(mark_files, sizes, strict=True):
        file.write_bytes(bytes(size))
    found = 0
    with Progress("find duplicates", sum(sizes), "texts") as progress:
        for bucket in range(buckets):  # the lowest bits of a hash
            hashes, owners, numbers_in_piece = [], [], []
            for number, file in enumerate(hash_files):
                mine = np.memmap(file, "<u8", "r") if sizes[number] else np.empty(0, "<u8")
                (chosen,) = np.nonzero(mine & np.uint64(buckets - 1) == bucket)
                hashes.append(mine[chosen])
                owners.append(np.full(len(chosen), number, np.int32))
                numbers_in_piece.append(chosen)
            together = np.concatenate(hashes)
            is_repeated = np.ones(len(together), bool)
            is_repeated[np.unique(together, return_index=True)[1]] = False
            found += int(is_repeated.sum())
            owner, repeated = (np.concatenate(each)[is_repeated] for each in (owners, numbers_in_piece))
            numbers, starts = np.unique(owner, return_index=True)
            for number, mine in zip(numbers.tolist(), np.split(repeated, starts)[1:], strict=True):
                marks = np.memmap(mark_files[number], bool, "r+")
                marks[mine] = True
                marks.flush()
            progress.update(len(together))
    return found
