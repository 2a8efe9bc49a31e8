"""Flags from frozen dataclasses: one field, one flag, its help and its unit in one place.

A configuration is a frozen dataclass whose fields are made by `flag(...)`; a field that is itself such a dataclass is
a section, and its fields become flags of the same command. Both spellings of a flag (`--train-batch-size`,
`--train_batch_size`) mean the same, booleans take `--flag`, `--flag True` and `--flag=False`, and no prefix is taken
for a whole name. A flag of several values takes them together or one by one (`--name a b`, `--name a --name b`).
`--config run.json` gives any of them from a file; what stands on the command line wins.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import errno
import functools
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from launch import ranks
from utils.errors import UserError, printable
from utils.json_file import read_settings

Config = TypeVar("Config")


def flag(
    default: Any,
    help: str,
    *,
    aliases: Sequence[str] = (),
    choices: Sequence[str] = (),
    unit: str = "",
    per_host: bool = False,
) -> Any:
    """A dataclass field that becomes the flag of the same name.

    Args:
        default: the value where the flag is not given; None shows as no default in `--help`.
        help: one line for `--help`.
        aliases: other names of the same flag (underscores; dashes come by themselves).
        choices: the only values allowed.
        unit: what the number counts, shown in `--help`.
        per_host: whether hosts of one job may have different values.
    """
    metadata = {
        "help": help, "aliases": tuple(aliases), "choices": tuple(choices), "unit": unit, "per_host": per_host
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


def section(config_class: type[Config], **defaults: Any) -> Config:
    """A dataclass field that holds another configuration, whose flags join this one's.

    `defaults` take the place of its flags' (or class attributes') values in this command.
    """
    if defaults:
        config_class = _with_defaults(config_class, defaults)
    return typing.cast(Config, dataclasses.field(default_factory=config_class))


def _with_defaults(config_class: type[Config], defaults: Mapping[str, Any]) -> type[Config]:
    hints = typing.get_type_hints(config_class)
    known = {field.name: field for field in dataclasses.fields(typing.cast(Any, config_class))}
    fields = [
        (name, hints[name], dataclasses.field(default=value, metadata=known[name].metadata))
        for name, value in defaults.items()
        if name in known
    ]
    others = {name: value for name, value in defaults.items() if name not in known}
    namespace = {"__doc__": config_class.__doc__, **others}
    changed = dataclasses.make_dataclass(
        config_class.__name__, fields, bases=(config_class,), frozen=True, namespace=namespace
    )
    return typing.cast("type[Config]", changed)


@dataclasses.dataclass(frozen=True)
class _Flag:
    path: tuple[str, ...]  # section names, then the field's
    type: Callable[[str], Any]
    many: bool
    default: Any
    help: str
    aliases: tuple[str, ...]
    choices: tuple[str, ...]
    per_host: bool
    title: str

    @property
    def name(self) -> str:
        return self.path[-1]

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


def parse(
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    description: str = "",
    retired: Mapping[str, str] | None = None,
) -> Config:
    """The configuration that a command line describes.

    Args:
        config_class: a frozen dataclass as described above.
        argv: the words after the program's name (default: this process's).
        prog: the command's name in `--help`.
        description: the first paragraph of `--help`.
        retired: flags that are taken and change nothing, with the sentence that names what to use instead.

    Raises:
        UserError: unknown flag (the nearest known one is named), a value of the wrong type, or a check of the
            configuration's own that fails.
    """
    flags = _flags_of(config_class)
    retired = retired or {}
    parser = _Parser(prog=prog, description=description, allow_abbrev=False, add_help=True)
    if not any("config" in spec.names for spec in flags):
        parser.add_argument(
            "--config", metavar="RUN.json", help="flags from a JSON file; the command line wins over it"
        )
    groups: dict[str, argparse._ActionsContainer] = {}
    for spec in flags:
        group = groups.setdefault(spec.title, parser.add_argument_group(spec.title) if spec.title else parser)
        _add(group, spec)
    for name in retired:
        parser.add_argument(*_spellings(name), nargs="*", dest=f"retired {name}", help=argparse.SUPPRESS)

    words = [_plain(word) for word in (sys.argv[1:] if argv is None else argv)]
    given, unknown = parser.parse_known_args(words)
    if unknown:
        known = [spelling for spec in flags for name in spec.names for spelling in _spellings(name)]
        raise UserError(_unknown_message(unknown[0], known))
    values = {key: value for key, value in vars(given).items() if value is not _NOT_GIVEN}
    for name in retired:
        if values.pop(f"retired {name}", None) is not None:
            _warn_of_retired(name, retired)
    config_file = values.pop("config", None)
    if config_file:
        values = {**_from_file(Path(config_file), flags, retired), **values}
    return _build(config_class, values)


def parse_command(
    commands: Mapping[str, tuple[type, str]],
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    description: str = "",
) -> tuple[str, Any]:
    """The subcommand's name and its configuration; `commands` maps a name to (configuration class, help line)."""
    argv = sys.argv[1:] if argv is None else list(argv)
    prog = prog or Path(sys.argv[0]).name
    width = max(map(len, commands))
    listing = "\n".join(f"  {name:{width}}  {text}" for name, (_, text) in commands.items())
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {prog} COMMAND [flags]\n\n{description}\n\n{listing}\n\n{prog} COMMAND --help lists its flags.")
        raise SystemExit(0 if argv else 2)
    if argv[0] not in commands:
        raise UserError(f"{argv[0]!r} is not a command of {prog}: use one of {', '.join(commands)}.")
    config_class, text = commands[argv[0]]
    return argv[0], parse(config_class, argv[1:], prog=f"{prog} {argv[0]}", description=text)


def run(main: Callable[[], None]) -> NoReturn:
    """Runs a command's main function; the user's mistakes end it with one line on standard error and exit code 2."""
    try:
        main()
        code = 0
    except UserError as error:
        code = _fail(str(error), 2)
    except KeyboardInterrupt:
        code = _fail("interrupted.", 130)
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ranks.fail("nobody reads the output any more.", 1)
        code = 0
    except PermissionError as error:
        code = _fail(f"{error.filename or error}: permission denied.", 2)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        where = f" at {error.filename}" if error.filename else ""
        code = _fail(f"{_DISK_ERRORS[error.errno]}{where}: nothing complete was lost; make room and run it again.", 2)
    except SystemExit as leaving:
        if isinstance(leaving.code, int) and leaving.code > 128:  # stopped by a signal, on all ranks at the same step
            ranks.leave(leaving.code)
        ranks.fail(f"left early, with exit code {leaving.code}.", 1)
        raise
    ranks.leave(code)
    sys.exit(code)


def to_flat_dict(config: Any) -> dict[str, Any]:
    """The configuration as one flat dict of flags, the form that `--config` reads."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        flat.update(to_flat_dict(value) if dataclasses.is_dataclass(value) else {field.name: value})
    return flat


def job_flags(config: Any) -> dict[str, Any]:
    """The flags that all processes of a job must have been given alike. Names of files are not among them: another
    host may keep the same file elsewhere."""
    flags = [spec for spec in _flags_of(type(config)) if not spec.per_host]
    return {spec.name: functools.reduce(getattr, spec.path, config) for spec in flags}


def with_flags(
    config: Config, content: Mapping[str, Any], where: str, retired: Mapping[str, str] | None = None
) -> Config:
    """The configuration with the values of some flags changed.

    Args:
        config: as `parse` gave it.
        content: {flag or one of its aliases: value}.
        where: what messages begin with.
        retired: as `parse` takes it.

    Raises:
        UserError: as `parse` does.
    """
    flags = _flags_of(type(config))
    own = {".".join(spec.path): functools.reduce(getattr, spec.path, config) for spec in flags}
    values = own | _from_object(content, where, flags, retired or {})
    try:
        return _build(type(config), values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def flag_names(config_class: type) -> dict[str, str]:
    """{each name that a flag goes by: its own}."""
    return {name.replace("-", "_"): spec.name for spec in _flags_of(config_class) for name in spec.names}


def warn(sentence: str) -> None:
    """One warning on standard error, by the first process only."""
    if ranks.rank() <= 0:  # importing the framework sets RANK to -1 where there is no launcher
        print(f"warning: {printable(sentence)}", file=sys.stderr)


_NOT_GIVEN = argparse.SUPPRESS
_DISK_ERRORS = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the limit on a file's size is reached",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')} (see --help).")


def _fail(sentence: str, code: int) -> int:
    ranks.fail(sentence, code)  # does not return where there are others
    print(f"error: {sentence}", file=sys.stderr)
    return code


def _flags_of(config_class: type, path: tuple[str, ...] = (), title: str = "") -> list[_Flag]:
    hints = typing.get_type_hints(config_class)
    flags: list[_Flag] = []
    for field in dataclasses.fields(config_class):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            # The section's class itself, which may have other defaults than the annotation's.
            kind = typing.cast(type, field.default_factory)
            flags += _flags_of(kind, (*path, field.name), (kind.__doc__ or "").split("\n")[0])
            continue
        convert, many = _converter(hint)
        meta = field.metadata
        unit = f" [{meta['unit']}]" if meta["unit"] else ""
        shown = "" if field.default is None or field.default == () else f" (default: {_show(field.default)})"
        text = (meta["help"] + unit + shown).replace("%", "%%")
        name = (*path, field.name)
        per_host = meta["per_host"] or (convert is str and not meta["choices"])
        flags.append(_Flag(name, convert, many, field.default, text, meta["aliases"], meta["choices"], per_host, title))
    return flags


def _show(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _converter(hint: Any) -> tuple[Callable[[str], Any], bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        (hint,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
    if typing.get_origin(hint) is tuple:
        return _converter(typing.get_args(hint)[0])[0], True
    converters: dict[type, Callable[[str], Any]] = {bool: _boolean, int: _integer, float: _number, str: str}
    return converters[hint], False


def _plain(word: str) -> str:
    """Flax's spelling `--config.learning_rate=1` as `--learning_rate=1`."""
    return "--" + word.removeprefix("--config.") if word.startswith("--config.") else word


def _boolean(text: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on"):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _spellings(name: str) -> list[str]:
    if len(name) == 1:
        return [f"-{name}"]
    underscored = name.replace("-", "_")
    return list(dict.fromkeys([f"--{underscored}", f"--{underscored.replace('_', '-')}"]))


def _add(group: Any, spec: _Flag) -> None:
    options: dict[str, Any] = {"dest": ".".join(spec.path), "default": _NOT_GIVEN, "type": spec.type, "help": spec.help}
    if spec.choices:
        options["choices"] = spec.choices
    else:
        options["metavar"] = "True|False" if spec.type is _boolean else spec.name.split("_")[-1].upper()
    if spec.type is _boolean:
        options |= {"nargs": "?", "const": True}
    elif spec.many:
        options |= {"nargs": "+", "action": "extend"}
    group.add_argument(*(s for name in spec.names for s in _spellings(name)), **options)


def _unknown_message(word: str, known: Sequence[str]) -> str:
    name = word.split("=")[0]
    near = difflib.get_close_matches(name, known, 1, 0.5)
    hint = f" Did you mean {near[0]}?" if near else " --help lists all flags."
    return f"{name} is not a flag here.{hint}" if name.startswith("-") else f"{word!r} belongs to no flag.{hint}"


def _warn_of_retired(name: str, retired: Mapping[str, str]) -> None:
    warn(f"--{name} changes nothing here: {retired[name]}")


def _from_file(path: Path, flags: Sequence[_Flag], retired: Mapping[str, str]) -> dict[str, Any]:
    """{dotted path: value} from a JSON object of flags, each value checked like one on the command line."""
    script = re.fullmatch(r".*\.py(:(.+))?", str(path))
    if script:  # what Flax's scripts take
        name = f" --init_checkpoint {script[2]} names its model." if script[2] else ""
        warn(f"--config {path} is Python, and is not read: give its values as flags, or in a JSON file.{name}")
        return {}
    return _from_object(read_settings(path, "--config "), f"--config {path}", flags, retired)


def _from_object(
    content: Mapping[str, Any], where: str, flags: Sequence[_Flag], retired: Mapping[str, str]
) -> dict[str, Any]:
    """{dotted path: value} from {flag: value}, each value checked like one on the command line."""
    by_name = {name.replace("-", "_"): spec for spec in flags for name in spec.names}
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = key.lstrip("-").replace("-", "_")
        old = next((old for old in retired if old.replace("-", "_") == name), None)
        if old:
            _warn_of_retired(old, retired)
            continue
        if name not in by_name:
            raise UserError(f"{where}: {_unknown_message('--' + name, ['--' + n for n in by_name])}")
        if value is None:
            continue
        spec = by_name[name]
        words = value if isinstance(value, list) else [value]
        try:
            converted = [spec.type(str(word)) for word in words]
        except argparse.ArgumentTypeError as error:
            raise UserError(f"{where}: {key}: {error}.") from None
        if spec.choices and not set(converted) <= set(spec.choices):
            raise UserError(f"{where}: {key} must be one of {', '.join(spec.choices)}.")
        if isinstance(value, list) and not spec.many:
            raise UserError(f"{where}: {key} takes one value.")
        values[".".join(spec.path)] = converted if spec.many else converted[0]
    return values


def _build(config_class: type[Config], values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Config:
    hints = typing.get_type_hints(config_class)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast(Any, config_class)):
        name = (*path, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            arguments[field.name] = _build(typing.cast(type, field.default_factory), values, name)
        elif ".".join(name) in values:
            value = values[".".join(name)]
            arguments[field.name] = tuple(value) if isinstance(value, list) else value
    return config_class(**arguments)
