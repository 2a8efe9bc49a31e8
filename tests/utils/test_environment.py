"""A Python that is not the virtual environment's is told how to activate it."""

import re
import sys

import pytest

from utils import environment
from utils.environment import missing_package_sentence, require_supported_python


@pytest.mark.parametrize(
    ("made", "active", "remedy"),
    [
        (True, False, "activate the project's virtual environment with `source .*/bin/activate`"),
        (True, True, "run `make setup` in "),
        (False, False, "run `make setup` and `source .venv/bin/activate` in "),
    ],
)
def test_the_remedy_fits_the_environment(tmp_path, monkeypatch, made, active, remedy):
    if made:
        (tmp_path / ".venv/bin").mkdir(parents=True)
        (tmp_path / ".venv/bin/activate").touch()
    monkeypatch.setattr(environment, "_ROOT", tmp_path)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv") if active else "/usr")
    sentence = missing_package_sentence(ModuleNotFoundError(name="numpy.core"))
    assert sentence is not None
    assert re.match(f"the package numpy is not installed for {re.escape(sys.executable)}: {remedy}", sentence)


def test_modules_of_the_project_are_no_packages_to_install():
    assert missing_package_sentence(ModuleNotFoundError(name="data.no_such_module")) is None
    assert missing_package_sentence(ModuleNotFoundError(name="run_squad")) is None


def test_an_old_python_ends_with_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "version_info", (3, 8, 18, "final", 0))
    with pytest.raises(SystemExit) as end:
        require_supported_python()
    assert end.value.code == 2
    assert f"error: Python 3.8 at {sys.executable} is too old: " in capsys.readouterr().err
