"""Sentences for a Python that is not the one of the project's virtual environment.

Importing this module ends the process with one where Python is too old to import the others.
"""

# Python 3.6 and later must be able to import this file, so it has no newer syntax.
import os
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_OLDEST = (3, 10)


def require_supported_python() -> None:
    """Ends the process with a sentence and exit code 2 where Python is too old for this project."""
    if sys.version_info < _OLDEST:
        found = ".".join(map(str, sys.version_info[:2]))
        print(f"error: Python {found} at {sys.executable} is too old: {_remedy()}.", file=sys.stderr)
        raise SystemExit(2)


def missing_package_sentence(error: ModuleNotFoundError) -> "str | None":
    """The sentence for a package that is not installed; None for a module of this project."""
    package = (error.name or "").split(".")[0]
    if not package or (_ROOT / package).exists() or (_ROOT / (package + ".py")).exists():
        return None
    return f"the package {package} is not installed for {sys.executable}: {_remedy()}."


def _remedy() -> str:
    environment = _ROOT / ".venv"
    activate = environment / "bin" / "activate"
    if Path(sys.prefix) == environment:
        return f"run `make setup` in {_ROOT}, which installs what is missing"
    if activate.exists():
        return f"activate the project's virtual environment with `source {os.path.relpath(activate)}`"
    return f"run `make setup` and `source .venv/bin/activate` in {_ROOT}"


require_supported_python()
