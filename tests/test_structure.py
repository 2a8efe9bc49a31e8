"""The shape of the house: imports point down, doors fit on a screen, --help needs no framework."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOORS = sorted([*ROOT.glob("run_*.py"), ROOT / "prepare_data.py", ROOT / "convert_checkpoint.py", ROOT / "serve.py"])
# Each room may use the rooms named here, and itself.
MAY_USE = {
    "utils": {"configs"},
    "launch": {"utils"},
    "configs": {"utils", "launch"},
    "kernels": set(),
    "conversion": {"configs", "utils"},
    "data": {"configs", "utils", "conversion"},
    "evaluation": {"configs", "utils", "data"},
    "modeling": {"configs", "utils", "kernels"},
    "inference": {"configs", "utils", "modeling", "data", "evaluation", "conversion", "kernels"},
    "serving": {"configs", "utils", "inference", "kernels"},
    "training": {"configs", "utils", "launch", "modeling", "data", "evaluation", "conversion", "kernels"},
    "tasks": {"configs", "utils", "launch", "modeling", "data", "evaluation", "conversion", "kernels", "training"},
}
COMMANDS_IN_UTILS = {"draw_loss_curve.py", "compare_lazy_outputs.py"}
FRAMEWORK_FREE = ("configs", "launch", "utils", "evaluation", "data")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module


def room_files():
    return [path for room in MAY_USE for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", room_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    room = path.relative_to(ROOT).parts[0]
    if room == "utils" and path.name in COMMANDS_IN_UTILS:
        return
    used = {name.split(".")[0] for name in imports(path)}
    assert used & set(MAY_USE) <= MAY_USE[room] | {room}
    assert not used & {door.stem for door in DOORS}
    if room in FRAMEWORK_FREE:
        assert "oneflow" not in used
    if room in ("configs", "launch", "utils"):
        assert used <= sys.stdlib_module_names | {"configs", "launch", "utils"}


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_a_door_fits_on_a_screen(door):
    assert len(door.read_text().splitlines()) <= 60


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_help_imports_no_framework(door):
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{door.name!r}, '--help']; sys.path.insert(0, {str(ROOT)!r})\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'oneflow', 'numpy', 'tokenizers', 'tensorflow', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "--" in result.stdout
