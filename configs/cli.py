"""Command-line parsing from frozen dataclasses: each field is one flag with a help text and a unit.

A configuration is a frozen dataclass whose fields are made by `flag(...)`. A field that is itself such a dataclass is
a section: its fields become flags of the same command, in a separate group of `--help`. Both spellings of a flag
(`--train-batch-size`, `--train_batch_size`) are equivalent. Booleans accept `--flag`, `--flag True` and `--flag=False`.
Abbreviated names are not accepted. A flag with several values accepts them together or one by one (`--name a b`,
`--name a --name b`). `--config run.json` reads flags from a file; the command line overrides it.

A configuration class may define `most_used`, the names of the flags that `--help` lists first, and class attributes
that the `default_text` of a flag refers to.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import re
import signal
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from configs.flag_specs import Flag, flags_of
from configs.help import NOT_GIVEN, build_parser, retired_dest
from configs.spelling import nearest
from launch.ending import fail, leave
from utils.environment import missing_package_sentence
from utils.errors import UserError
from utils.json_file import read_settings
from utils.messages import warn
from utils.os_errors import loop_sentence, memory_sentence, os_error_sentence
from utils.streams import discard_output, open_closed_streams

Config = TypeVar("Config")
_OTHER_DASHES = ("\u2013", "\u2014", "\u2212")  # en dash, em dash, minus sign


def flag(
    default: Any,
    help: str,
    *,
    aliases: Sequence[str] = (),
    choices: Sequence[str] = (),
    unit: str = "",
    metavar: str = "",
    default_text: str = "",
    per_host: bool = False,
) -> Any:
    """Defines a dataclass field that becomes the flag of the same name.

    Args:
        default: the value if the flag is not given.
        help: one sentence for `--help`, without a period.
        aliases: other names of the same flag, with underscores; spellings with dashes are added.
        choices: the only values allowed.
        unit: what the number counts, shown in `--help`.
        metavar: what `--help` shows in place of the value (default: chosen by type and name).
        default_text: what `--help` shows as the default instead of the value (such as None); {name} inserts a class
            attribute of the configuration.
        per_host: whether the hosts of one job may have different values.
    """
    metadata = {
        "help": help, "aliases": tuple(aliases), "choices": tuple(choices), "unit": unit, "metavar": metavar,
        "default_text": default_text, "per_host": per_host,
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


def section(
    config_class: type[Config], *, aliases: Mapping[str, Sequence[str]] | None = None, **defaults: Any
) -> Config:
    """Defines a dataclass field with another configuration, whose flags are added to this one's.

    Args:
        config_class: the section's class.
        aliases: additional names for some of its flags, only in this command.
        defaults: different defaults for some of its flags or class attributes, only in this command.
    """
    if defaults or aliases:
        config_class = _adapted(config_class, defaults, aliases or {})
    return typing.cast(Config, dataclasses.field(default_factory=config_class))


def _adapted(
    config_class: type[Config], defaults: Mapping[str, Any], aliases: Mapping[str, Sequence[str]]
) -> type[Config]:
    hints = typing.get_type_hints(config_class)
    known = {field.name: field for field in dataclasses.fields(typing.cast(Any, config_class))}
    fields = []
    for name in known.keys() & {*defaults, *aliases}:
        own = known[name].metadata
        metadata = {**own, "aliases": (*own["aliases"], *aliases.get(name, ()))}
        changed = dataclasses.field(default=defaults.get(name, known[name].default), metadata=metadata)
        fields.append((name, hints[name], changed))
    attributes = {name: value for name, value in defaults.items() if name not in known}
    return typing.cast(
        "type[Config]",
        dataclasses.make_dataclass(
            config_class.__name__,
            fields,
            bases=(config_class,),
            frozen=True,
            namespace={"__doc__": config_class.__doc__, **attributes},
        ),
    )


def parse(
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    description: str = "",
    retired: Mapping[str, str] | None = None,
) -> Config:
    """Parses a command line into a configuration.

    Args:
        config_class: a frozen dataclass as described above.
        argv: the words after the program's name (default: this process's).
        prog: the command's name in `--help`.
        description: the first paragraph of `--help`.
        retired: flags that are accepted without effect, each with a sentence that says what to use instead.

    Raises:
        UserError: a flag is unknown (the message suggests a similar name), a value has the wrong type, or a check of
            the configuration fails.
    """
    flags = flags_of(config_class)
    retired = retired or {}
    parser = build_parser(flags, getattr(config_class, "most_used", ()), retired, prog, description)
    words = [_plain(word) for word in (sys.argv[1:] if argv is None else argv)]
    copied = next((word for word in words if word.startswith(_OTHER_DASHES)), None)
    if copied:
        raise UserError(
            f"{copied} does not begin with a hyphen, but with a dash that text programs put in its place: type "
            f"--{copied.lstrip(''.join(_OTHER_DASHES) + '-')}."
        )
    given, unknown = parser.parse_known_args(words)
    if unknown:
        raise UserError(_unknown_message(unknown[0], flags))
    values = {key: value for key, value in vars(given).items() if value is not NOT_GIVEN}
    for name in retired:
        if values.pop(retired_dest(name), None) is not None:
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
    """Parses a command line with a subcommand into the subcommand's name and its configuration.

    Args:
        commands: {name: (configuration class, one line of help)}.
        argv: the words after the program's name (default: this process's).
        prog: the command's name in `--help`.
        description: the first paragraph of `--help`.

    Raises:
        UserError: the subcommand is unknown, or as in `parse`.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    prog = prog or Path(sys.argv[0]).name
    width = max(map(len, commands))
    listing = "\n".join(f"  {name:{width}}  {text}" for name, (_, text) in commands.items())
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: {prog} COMMAND [flags]\n\n{description}\n\n{listing}\n\n{prog} COMMAND --help lists the flags.")
        raise SystemExit(0 if argv else 2)
    if argv[0] not in commands:
        raise UserError(f"{argv[0]!r} is not a command of {prog}: use one of {', '.join(commands)}.")
    config_class, text = commands[argv[0]]
    return argv[0], parse(config_class, argv[1:], prog=f"{prog} {argv[0]}", description=text)


def run(main: Callable[[], None]) -> NoReturn:
    """Runs a command's main function and ends the process.

    A UserError or an operating system error ends it with one line on standard error and exit code 2.
    """
    open_closed_streams()
    try:
        main()
        sys.stdout.flush()
        code = 0
    except UserError as error:
        code = _fail(str(error), 2)
    except KeyboardInterrupt:
        code = _fail("interrupted.", 130)
    except BrokenPipeError:  # the output pipe is closed, as `head` does
        discard_output()
        code = 128 + signal.SIGPIPE
        fail("the output pipe was closed.", code)
    except OSError as error:
        code = _fail(os_error_sentence(error), 2)
    except (MemoryError, ImportError, RuntimeError) as error:
        sentence = memory_sentence(error) or loop_sentence(error)
        if sentence is None and isinstance(error, ModuleNotFoundError):
            sentence = missing_package_sentence(error)
        if sentence is None:
            raise
        code = _fail(sentence, 2)
    except SystemExit as leaving:
        if isinstance(leaving.code, int) and leaving.code > 128:  # stopped by a signal, on all ranks at the same step
            leave(leaving.code)
        fail(f"ended early with exit code {leaving.code}.", 1)  # the other ranks would wait
        raise
    leave(code)
    sys.exit(code)


def to_flat_dict(config: Any) -> dict[str, Any]:
    """Returns the configuration as a flat dict of flags, as `--config` reads it."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        flat.update(to_flat_dict(value) if dataclasses.is_dataclass(value) else {field.name: value})
    return flat


def changed_flags(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The flags with other values than before, as "--NAME (was VALUE)"; values are compared as JSON stores them."""
    stored = {name: list(value) if isinstance(value, tuple) else value for name, value in now.items()}
    return [
        f"--{name} (was {before[name]})" for name, value in stored.items() if name in before and before[name] != value
    ]


def job_flags(config: Any) -> dict[str, Any]:
    """The flags that must be equal on all ranks of a job. File names may differ, because each host may store the same
    file in a different place."""
    flags = [spec for spec in flags_of(type(config)) if not spec.per_host]
    return {spec.name: functools.reduce(getattr, spec.path, config) for spec in flags}


def with_flags(
    config: Config, content: Mapping[str, Any], where: str, retired: Mapping[str, str] | None = None
) -> Config:
    """Returns the configuration with some flags changed.

    Args:
        config: a configuration from `parse`.
        content: {flag or one of its aliases: value}.
        where: the prefix of error messages.
        retired: see `parse`.

    Raises:
        UserError: as `parse` does.
    """
    flags = flags_of(type(config))
    own = {".".join(spec.path): functools.reduce(getattr, spec.path, config) for spec in flags}
    values = own | _from_object(content, where, flags, retired or {})
    try:
        return _build(type(config), values)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def flag_names(config_class: type) -> dict[str, str]:
    """{each name of a flag, including aliases: the flag's main name}."""
    return {name.replace("-", "_"): spec.name for spec in flags_of(config_class) for name in spec.names}


def main_name(config_class: type, name: str) -> str:
    """The main name of a flag; raises UserError, which suggests a similar one, if there is no such flag.

    Args:
        config_class: the configuration.
        name: any name of the flag, with or without dashes.
    """
    key, names = name.lstrip("-").replace("-", "_"), flag_names(config_class)
    if key not in names:
        raise UserError(_unknown_message(f"--{key}", flags_of(config_class)))
    return names[key]


def _fail(sentence: str, code: int) -> int:
    fail(sentence, code)  # does not return if there are other ranks
    with contextlib.suppress(OSError):  # standard error is closed
        print(f"error: {sentence}", file=sys.stderr)
    return code


def _plain(word: str) -> str:
    """`--learning_rate=1` for `--config.learning_rate=1`, the spelling of Flax's scripts."""
    return "--" + word.removeprefix("--config.") if word.startswith("--config.") else word


def _unknown_message(word: str, flags: Sequence[Flag]) -> str:
    name = word.split("=")[0]
    if not name.startswith("-"):
        return f"{word!r} does not belong to a flag. --help lists all flags."
    near = nearest(name.lstrip("-"), [known for spec in flags for known in spec.names])
    if near is None:
        return f"{name} is not a flag here. --help lists all flags."
    spelling = near.replace("_", "-") if "-" in name.lstrip("-") else near
    return f"{name} is not a flag here. Did you mean --{spelling}?"


def _warn_of_retired(name: str, retired: Mapping[str, str]) -> None:
    warn(f"--{name} has no effect here: {retired[name]}")


def _from_file(path: Path, flags: Sequence[Flag], retired: Mapping[str, str]) -> dict[str, Any]:
    """{dotted path: value} from a JSON object of flags, each value checked like one on the command line."""
    script = re.fullmatch(r".*\.py(:(.+))?", str(path))
    if script:  # the form that Flax's scripts accept
        name = f" Its model is --init_checkpoint {script[2]}." if script[2] else ""
        warn(f"--config {path} is a Python file and is not read: pass its values as flags or in a JSON file.{name}")
        return {}
    return _from_object(read_settings(path, "--config "), f"--config {path}", flags, retired)


def _from_object(
    content: Mapping[str, Any], where: str, flags: Sequence[Flag], retired: Mapping[str, str]
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
            raise UserError(f"{where}: {_unknown_message('--' + name, flags)}")
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
