"""Runs all tests, one process for each directory of unit tests and each file of whole training runs.

OneFlow can crash after hundreds of compiled jobs in one process. Two processes run at a time, because most tests use
one core. The output of each is printed when it ends.
"""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

TESTS = Path(__file__).resolve().parent
WHOLE_RUNS = ("tasks", "training")
AT_ONCE = 2
NO_TESTS = 5  # pytest's exit code where every test needs an extra that is not installed


def groups() -> list[Path]:
    """What each process tests; directories come first, because they take longest."""
    directories = sorted({TESTS / path.relative_to(TESTS).parts[0] for path in TESTS.glob("*/**/test_*.py")})
    own = [directory for directory in directories if directory.name not in WHOLE_RUNS]
    files = [path for name in WHOLE_RUNS for path in sorted((TESTS / name).glob("test_*.py"))]
    return [*own, *files, *sorted(TESTS.glob("test_*.py"))]


def run(group: Path) -> tuple[Path, int, str, float]:
    """The exit code, the output and the duration of one process."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(group.relative_to(TESTS.parent))]
    done = subprocess.run(
        command, cwd=TESTS.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    return group, done.returncode, done.stdout, time.monotonic() - begun


def main() -> None:
    failed = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for future in as_completed([pool.submit(run, group) for group in groups()]):
            group, code, output, seconds = future.result()
            name = group.relative_to(TESTS.parent)
            print(f"{name} ({seconds:.0f} s)\n{output}", end="", flush=True)
            if code not in (0, NO_TESTS):
                failed.append(str(name))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
