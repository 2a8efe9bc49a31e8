"""Imports point down, entry points are short, and --help needs no framework."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Each package may import the packages named here, and itself. The order is from the bottom up.
MAY_IMPORT = {
    "utils": set(),
    "kernels": {"utils"},
    "launch": {"utils"},
    "configs": {"utils", "launch"},
    "conversion": {"utils", "configs", "kernels"},
    "data": {"utils", "configs", "conversion"},
    "evaluation": {"utils", "configs", "data"},
    "modeling": {"utils", "configs", "kernels"},
    "inference": {"utils", "configs", "kernels", "conversion", "data", "evaluation", "modeling"},
    "serving": {"utils", "configs", "kernels", "inference"},
    "training": {"utils", "launch", "configs", "kernels", "conversion", "data", "evaluation", "modeling"},
    "sweeps": {"utils", "configs"},
    "tasks": {"utils", "launch", "configs", "kernels", "conversion", "data", "evaluation", "modeling", "training"},
}
ENTRY_POINTS = sorted(
    [
        *ROOT.glob("run_*.py"),
        ROOT / "prepare_data.py",
        ROOT / "convert_checkpoint.py",
        ROOT / "compare_precisions.py",
        ROOT / "serve.py",
        ROOT / "sweep.py",
    ]
)
# Commands that users know at this path: entry points, though they are in a package.
COMMANDS_IN_UTILS = [
    ROOT / "utils" / name for name in ("average_checkpoints.py", "compare_lazy_outputs.py", "draw_loss_curve.py")
]
FRAMEWORK_FREE = ("utils", "launch", "configs", "evaluation", "data", "sweeps")
STANDARD_LIBRARY_ONLY = ("utils", "launch", "configs")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def modules():
    files = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in files if path not in COMMANDS_IN_UTILS]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    package = path.relative_to(ROOT).parts[0]
    used = {name.split(".")[0] for name in imports(path)}
    assert used & set(MAY_IMPORT) <= MAY_IMPORT[package] | {package}
    assert not used & {entry_point.stem for entry_point in ENTRY_POINTS}
    assert not {f"utils.{command.stem}" for command in COMMANDS_IN_UTILS} & set(imports(path))
    if package in FRAMEWORK_FREE:
        assert "oneflow" not in used
    if package in STANDARD_LIBRARY_ONLY:
        allowed = {"tqdm", "ray"} if package == "utils" else set()  # progress bars; a cluster, only on request
        assert used <= sys.stdlib_module_names | MAY_IMPORT[package] | {package} | allowed


def test_the_table_has_no_cycle():
    seen = set()
    for package, imported in MAY_IMPORT.items():
        assert imported <= seen, package
        seen.add(package)


@pytest.mark.parametrize("entry_point", ENTRY_POINTS, ids=lambda path: path.name)
def test_an_entry_point_has_at_most_60_lines(entry_point):
    assert len(entry_point.read_text().splitlines()) <= 60


@pytest.mark.parametrize("entry_point", [*ENTRY_POINTS, *COMMANDS_IN_UTILS], ids=lambda path: path.name)
def test_help_imports_no_framework(entry_point):
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{str(entry_point)!r}, '--help']; sys.path.insert(0, {str(ROOT)!r})\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'oneflow', 'numpy', 'tokenizers', 'tensorflow', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "--" in result.stdout
