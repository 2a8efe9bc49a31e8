"""The packages under `oneflow_bert`, in a folder where the clone's own packages cannot be found."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(folder, code):
    (folder / "oneflow_bert").symlink_to(ROOT / "oneflow_bert")
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)


def test_the_packages_are_the_clones_own_modules(tmp_path):
    code = (
        "from oneflow_bert.configs.model import BertConfig\n"
        "import oneflow_bert.utils.errors, configs.model, utils.errors\n"
        "assert BertConfig is configs.model.BertConfig and oneflow_bert.utils.errors is utils.errors\n"
        "assert configs.model.__spec__.name == 'configs.model' and configs.model.__name__ == 'configs.model'\n"
        "import configs.checks; print(configs.checks.__file__)"
    )
    done = run(tmp_path, code)
    assert done.stderr == "" and done.stdout.strip() == str(ROOT / "configs/checks.py")


def test_a_module_of_the_same_name_is_named(tmp_path):
    (tmp_path / "utils.py").touch()
    done = run(tmp_path, "import utils, oneflow_bert")
    assert done.stderr.endswith(
        "utils.py is already imported as 'utils', which is also a package of oneflow_bert: rename your module.\n"
    )
