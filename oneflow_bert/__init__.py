"""Makes the project's packages importable outside the clone: `from oneflow_bert.inference import load`.

`uv pip install -e .` installs only this package. `oneflow_bert.NAME` is the same module as `NAME` in the clone.
Importing `oneflow_bert` makes those top-level packages importable too, because they import each other by these names.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).resolve().parents[1]
_PREFIX = f"{__name__}."
_PACKAGES = frozenset(
    "configs conversion data evaluation inference kernels launch modeling serving sweeps tasks training utils".split()
)


class _Finder(MetaPathFinder, Loader):
    """Finds the clone's packages under their own names, and under `oneflow_bert.` as the same modules."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in _PACKAGES:
            return PathFinder.find_spec(name, [str(_ROOT)])
        if name.startswith(_PREFIX) and name.split(".")[1] in _PACKAGES:
            return spec_from_loader(name, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.name.removeprefix(_PREFIX))
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restores the module's own specification, which the import system has replaced."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def _check_names() -> None:
    """Raises ImportError if another project's module already has the name of a package of the clone."""
    for name in sorted(_PACKAGES & sys.modules.keys()):
        file = getattr(sys.modules[name], "__file__", None)
        if file and not Path(file).resolve().is_relative_to(_ROOT):
            raise ImportError(
                f"{file} is already imported as {name!r}, which is also a package of oneflow_bert: rename your module."
            )


_check_names()
sys.meta_path.insert(0, _Finder())
