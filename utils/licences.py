"""Prints a table of the licences of the installed dependencies, from the metadata of their packages.

`make licences` writes it to docs/licences.md.
"""

from __future__ import annotations

import re
import sys
from email.message import Message
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import cast

_PIN = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)
_LONGEST = 60  # some packages have the whole licence text as its name


def licence(package: Message) -> str:
    """The name of a package's licence: its expression, else its classifiers, else the first line of its text."""
    classifiers = [
        line.split(" :: ")[-1] for line in package.get_all("Classifier") or [] if line.startswith("License :: ")
    ]
    text = (package.get("License") or "").strip().split("\n")[0]
    expression = package.get("License-Expression")
    named = ", ".join(name for name in classifiers if name != "OSI Approved")
    return (expression or named or text or "not given")[:_LONGEST].replace("|", "/")


def table(files: list[Path]) -> str:
    """A Markdown table of all packages that these requirement files pin, in alphabetical order."""
    names = sorted({name for file in files for name in _PIN.findall(file.read_text(encoding="utf-8"))}, key=str.lower)
    rows = []
    for name in names:
        try:
            rows.append(f"| {name} | {licence(cast(Message, metadata(name)))} |")
        except PackageNotFoundError:
            rows.append(f"| {name} | not installed here |")
    return "\n".join(["| package | licence |", "|---|---|", *rows]) + "\n"


if __name__ == "__main__":
    print(
        "# Licences of the dependencies\n\n`make licences` writes this page from the metadata of the packages that "
        "`make setup` installs.\n\n" + table([Path(name) for name in sys.argv[1:]]),
        end="",
    )
