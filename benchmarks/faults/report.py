"""What an attack counts, and the faults that it finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

GOOD = ("clear error", "right")  # all other verdicts are faults
_SHOWN = 3  # faults of a kind that the table shows


@dataclass
class Attack:
    """The verdicts of one kind of attack."""

    kind: str
    verdicts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)  # how to repeat each, and what happened

    def add(self, verdict: str, details: str = "", count: int = 1) -> None:
        """Counts a verdict; `details` tell how to repeat a fault."""
        self.verdicts[verdict] += count
        if verdict not in GOOD:
            self.faults.append(f"{self.kind}: {verdict}: {details}")

    def check(self, holds: bool, details: str) -> None:
        """Counts something that must hold."""
        self.add("right" if holds else "fault", details)

    def line(self) -> str:
        """One line of figures: cases, then each verdict."""
        others = ", ".join(f"{count:,} {verdict}" for verdict, count in sorted(self.verdicts.items()))
        return f"{self.kind:24} {sum(self.verdicts.values()):>9,} cases: {others or 'none'}"


def write_report(attacks: Sequence[Attack], directory: Path) -> int:
    """Prints the figures, writes all faults to `faults.txt`, and returns how many there are."""
    faults = [fault for attack in attacks for fault in attack.faults]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "faults.txt").write_text("".join(f"{fault}\n" for fault in faults), encoding="utf-8")
    for attack in attacks:
        print(attack.line())
        for fault in attack.faults[:_SHOWN]:
            print(f"    {fault[:400]}")
    print(f"{len(faults)} faults; all of them are in {directory / 'faults.txt'}")
    return len(faults)
