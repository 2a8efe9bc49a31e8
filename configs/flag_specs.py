"""What argparse needs to know about each flag, derived from a configuration class."""

from __future__ import annotations

import argparse
import dataclasses
import math
import types
import typing
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class Flag:
    path: tuple[str, ...]  # section names, then the field's
    type: Callable[[str], Any]
    many: bool
    default: Any
    help: str
    aliases: tuple[str, ...]
    choices: tuple[str, ...]
    metavar: str
    per_host: bool
    title: str

    @property
    def name(self) -> str:
        return self.path[-1]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


def flags_of(config_class: type, path: tuple[str, ...] = (), title: str = "") -> list[Flag]:
    hints = typing.get_type_hints(config_class)
    flags: list[Flag] = []
    for field in dataclasses.fields(config_class):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            # The section's own class, whose defaults may differ from the annotation's.
            kind = typing.cast(type, field.default_factory)
            flags += flags_of(kind, (*path, field.name), (kind.__doc__ or "").split("\n")[0].removesuffix("."))
            continue
        convert, many = _converter(hint)
        meta = field.metadata
        flags.append(
            Flag(
                path=(*path, field.name),
                type=convert,
                many=many,
                default=field.default,
                help=_help_text(config_class, field),
                aliases=meta["aliases"],
                choices=meta["choices"],
                metavar=meta["metavar"] or _metavar(field.name, convert),
                per_host=meta["per_host"] or (convert is str and not meta["choices"]),
                title=title,
            )
        )
    return flags


def _help_text(config_class: type, field: dataclasses.Field[Any]) -> str:
    meta, default = field.metadata, field.default
    if meta["default_text"] and default in (None, ""):
        attributes = {name: getattr(config_class, name) for name in dir(config_class) if not name.startswith("_")}
        default = meta["default_text"].format_map(attributes)
    elif isinstance(default, tuple):
        default = " ".join(map(str, default))
    aliases = [f"-{name}" if len(name) == 1 else f"--{name}" for name in meta["aliases"]]
    notes = [
        *([f"in {meta['unit']}"] if meta["unit"] and meta["unit"] not in meta["help"] else []),
        *([f"default: {default}"] if default not in (None, "") else []),
        *([f"also {', '.join(aliases)}"] if aliases else []),
    ]
    return (meta["help"] + (f" ({'; '.join(notes)})" if notes else "")).replace("%", "%%")


def _metavar(name: str, convert: Callable[[str], Any]) -> str:
    if convert is boolean:
        return "True|False"
    if convert is _integer:
        return "N"
    if convert is _number:
        return "X"
    last = name.split("_")[-1].upper()
    return last if last in ("FILE", "DIR", "PATH", "NAME") else "VALUE"


def _converter(hint: Any) -> tuple[Callable[[str], Any], bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is tuple:
        return _converter(typing.get_args(hint)[0])[0], True
    converters: dict[type, Callable[[str], Any]] = {bool: boolean, int: _integer, float: _number, str: str}
    return converters[hint], False


def boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def _integer(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{_shortened(text)} is not a whole number") from None
    if abs(value) >= 1 << 63:
        raise argparse.ArgumentTypeError(f"{_shortened(text)} is too large for a 64-bit number")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{_shortened(text)} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{_shortened(text)} is not a finite number")
    return value


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
