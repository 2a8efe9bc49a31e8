"""Suggests the flag that a misspelled one probably means."""

from __future__ import annotations

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that begins with `name`, or else differs from it by a typo; None if no name does.

    A name that only contains the same words is not similar: --batch_size must not suggest --val_batch_size.

    Args:
        name: a flag's name without the leading dashes.
        known: names to choose from, with underscores.
    """
    wanted = name.lower().replace("-", "_")
    names = list(known)
    if len(wanted) > 2:
        longer = [each for each in names if each.startswith(wanted)]
        if longer:
            return min(longer, key=len)
    allowed = 1 if len(wanted) < 6 else 2
    near = [(_distance(wanted, each), each) for each in names if len(each) > 1 and abs(len(each) - len(wanted)) < 3]
    distance, best = min(near, default=(allowed + 1, ""))
    return best if distance <= allowed else None


def _distance(first: str, second: str) -> int:
    """Insertions, deletions, replacements and swaps of neighbours between two words (optimal string alignment)."""
    before: list[int] = []
    last = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        row = [i]
        for j, b in enumerate(second, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b)))
            if i > 1 and j > 1 and a == second[j - 2] and b == first[i - 2]:
                row[j] = min(row[j], before[j - 2] + 1)
        before, last = last, row
    return last[-1]
