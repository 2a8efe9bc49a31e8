"""The parser of a command and the layout of its `--help`."""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from configs.flag_specs import Flag, boolean
from utils.errors import UserError

NOT_GIVEN = argparse.SUPPRESS
_RETIRED = "retired "


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # argparse lists all spellings of the flag; the first one is enough.
        raise UserError(re.sub(r"^argument ([^/: ]+)[^: ]*", r"\1", message) + " (see --help).")


class _HelpFormatter(argparse.HelpFormatter):
    """Shows one name for each flag; the flag's help lists its aliases."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=min(shutil.get_terminal_size().columns - 2, 118))

    def _format_action_invocation(self, action: argparse.Action) -> str:
        retired = action.dest.startswith(_RETIRED)
        value = "" if retired else self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{action.option_strings[-1 if action.dest == 'help' else 0]} {value}".strip()


_HELP_NOTE = (
    "Names may be written with dashes instead of underscores. A flag with [True|False] means True without a value."
)


def build_parser(
    flags: Sequence[Flag], most_used: Sequence[str], retired: Mapping[str, str], prog: str | None, description: str
) -> argparse.ArgumentParser:
    """Builds a parser whose `--help` shows the most used flags first and the others in groups.

    Args:
        flags: all flags of the command, in the order of their groups.
        most_used: names of flags to show first.
        retired: {flag that is accepted without effect: what to use instead}; listed last.
        prog: the command's name.
        description: the first paragraph.
    """
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [flags]",
        description=description,
        epilog=_HELP_NOTE,
        allow_abbrev=False,
        add_help=False,
        formatter_class=_HelpFormatter,
    )
    titles = dict.fromkeys(spec.title for spec in flags if spec.title)
    groups = {title: parser.add_argument_group(title) for title in ("Most used", *titles, "General")}
    for spec in sorted(flags, key=lambda spec: most_used.index(spec.name) if spec.name in most_used else len(flags)):
        title = "Most used" if spec.name in most_used else spec.title or "General"
        _add(groups[title], spec)
    if not any("config" in spec.names for spec in flags):
        text = "read flags from a JSON file; the command line overrides it"
        groups["General"].add_argument("--config", metavar="RUN.json", help=text)
    groups["General"].add_argument("-h", "--help", action="help", help="show this help")
    without_effect = parser.add_argument_group("Accepted without effect, for the commands of other systems")
    for name, instead in retired.items():
        without_effect.add_argument(
            *spellings(name), nargs="*", dest=retired_dest(name), default=NOT_GIVEN, help=instead
        )
    return parser


def retired_dest(name: str) -> str:
    """The attribute that a parser sets if a retired flag is used."""
    return _RETIRED + name


def spellings(name: str) -> list[str]:
    if len(name) == 1:
        return [f"-{name}"]
    underscored = name.replace("-", "_")
    return list(dict.fromkeys([f"--{underscored}", f"--{underscored.replace('_', '-')}"]))


def _add(group: Any, spec: Flag) -> None:
    options: dict[str, Any] = {"dest": ".".join(spec.path), "default": NOT_GIVEN, "type": spec.type, "help": spec.help}
    if spec.choices:
        options["choices"] = spec.choices
    else:
        options["metavar"] = spec.metavar
    if spec.type is boolean:
        options |= {"nargs": "?", "const": True}
    elif spec.many:
        options |= {"nargs": "+", "action": "extend"}
    group.add_argument(*(s for name in spec.names for s in spellings(name)), **options)
