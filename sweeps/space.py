"""The search space: which values of which flags a sweep tries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from configs.cli import with_flags
from configs.flag_specs import Flag, flags_of
from configs.training import RETIRED
from sweeps.command import Command, Value
from utils.errors import UserError
from utils.json_file import read_settings

_MOST_VALUES = 1000
_RANGE_KEYS = {"low", "high", "log", "step"}


@dataclass(frozen=True)
class Choice:
    """A flag with one of several values."""

    flag: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Range:
    """A flag with a number between two bounds, which are included.

    Attributes:
        whole: whether the flag takes whole numbers.
        log: whether the logarithm is uniformly distributed, instead of the number.
        step: the distance between two values; None means any number, or 1 for whole numbers.
    """

    flag: str
    low: float
    high: float
    whole: bool
    log: bool = False
    step: float | None = None


Parameter = Choice | Range


def read_space(path: str, command: Command) -> list[Parameter]:
    """Reads a search space, and checks it against the flags of the command.

    The file contains a JSON object: {"--FLAG": [value, …]} or {"--FLAG": {"low": X, "high": Y}}, with "log": true or
    "step": Z if needed.

    Raises:
        UserError: the file is damaged, a flag is unknown, or the command refuses a value.
    """
    content = read_settings(path, "--search ")
    if not content:
        raise UserError(f"--search {path} contains no flags: name at least one.")
    specs = {spec.name: spec for spec in flags_of(command.program.config)}
    space: dict[str, Parameter] = {}
    for key, values in content.items():
        where = f"--search {path}"
        flag = command.searched(key, where)
        if flag in space:
            raise UserError(f"{where}: {key} is --{flag}, which is listed twice: remove one of them.")
        where += f": {key}"
        parameter = _choice(flag, values, where) if isinstance(values, list) else _range(specs[flag], values, where)
        bounds = parameter.values if isinstance(parameter, Choice) else (parameter.low, parameter.high)
        for value in bounds:
            with_flags(command.config, {flag: value}, f"--search {path}", RETIRED)
        space[flag] = parameter
    return list(space.values())


def _choice(flag: str, values: list[Any], where: str) -> Choice:
    if not 1 <= len(values) <= _MOST_VALUES:
        raise UserError(f"{where} has {len(values)} values: list 1 to {_MOST_VALUES}.")
    wrong = next((value for value in values if not isinstance(value, Value)), values)
    if wrong is not values:
        raise UserError(f"{where} lists {wrong!r:.60}: use numbers, strings, true and false.")
    if len({str(value) for value in values}) < len(values):
        raise UserError(f"{where} lists a value twice: remove one of them.")
    return Choice(flag, tuple(values))


def _range(spec: Flag, values: Any, where: str) -> Range:
    if not isinstance(values, Mapping) or not {"low", "high"} <= set(values) <= _RANGE_KEYS:
        raise UserError(
            f'{where} must be a list of values or {{"low": X, "high": Y}}, optionally with "log" or "step".'
        )
    kinds = {float: (int, float), int: (int,)}
    kind = next((kind for kind in kinds if type(spec.type("1")) is kind), None)
    if kind is None:
        raise UserError(f"{where} does not take numbers: use a list of values instead of a range.")
    log, step = values.get("log", False), values.get("step")
    numbers = [values["low"], values["high"], *([] if step is None else [step])]
    if not all(type(number) in kinds[kind] for number in numbers) or type(log) is not bool:
        name = "whole numbers" if kind is int else "numbers"
        raise UserError(f'{where}: "low", "high" and "step" must be {name}, and "log" true or false.')
    low, high = numbers[:2]
    if not low < high or (step is not None and not 0 < step <= high - low):
        raise UserError(f'{where}: "low" must be below "high", and "step" between 0 and their difference.')
    if log and (step is not None or low <= 0):
        raise UserError(f'{where}: "log" needs a "low" above 0 and cannot be combined with "step".')
    return Range(spec.name, low, high, kind is int, log, step)
