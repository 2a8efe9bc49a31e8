"""The parts of data/ import only those before them, and its modules stay small."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "data"
ORDER = [
    *("text", "tokenization", "records", "ofrecord", "sources", "reading", "squad"),
    *("long_text", "tables", "labels", "splitting", "tag_schemes"),
    *("classification", "glue", "tagging", "embedding", "preparation"),
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "data":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = ["counter_random", *ORDER[: ORDER.index(part) + 1]] if part in ORDER else []
    assert {name.split(".")[1] for name in imported(path)} <= set(allowed)


def test_the_order_covers_all_parts():
    assert {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"} == {
        "counter_random",
        *ORDER,
    }


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_are_short_and_take_few_arguments(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 65, node.name
            arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            assert len([each for each in arguments if each.arg not in ("self", "cls")]) <= 8, node.name
