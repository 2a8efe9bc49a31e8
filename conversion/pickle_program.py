"""Runs pickles without running code in them.

A pickle is a program for a small stack machine. This implementation only supports what frameworks write for a state
dict: it builds dicts, lists, tuples, strings and numbers, and knows a few names of functions and classes. It imports
nothing and calls nothing.
"""

from __future__ import annotations

import itertools
import pickletools
from collections.abc import Collection
from typing import Any, BinaryIO, ClassVar, NamedTuple

_MOST_OPCODES = 1_000_000  # BERT-large needs about 10,000
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")  # where training checkpoints keep the state dict
_MARK = object()


class Refused(Exception):
    """The pickle contains something that a state dict does not need."""


class Global(NamedTuple):
    name: str


def state_dict_of(state: Any) -> dict[str, Any]:
    """The state dict, or the state dict in a training checkpoint; only its entries with names.

    Raises:
        Refused: the content has no state dict.
    """
    for wrapper in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict):
        raise Refused("it contains no state dict")
    return {name: value for name, value in state.items() if isinstance(name, str)}


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG", "BINFLOAT", "FLOAT",
             "BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "SHORT_BINSTRING", "BINSTRING"}  # fmt: skip


class Machine:
    """Runs one pickle program without importing or calling anything; `run` returns the top of its stack.

    Attributes:
        globals: the names that a program may ask for.
    """

    globals: ClassVar[Collection[str]] = ("collections.OrderedDict",)

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for opcode, argument, _ in itertools.islice(pickletools.genops(self.file), _MOST_OPCODES):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                self.stack.append(argument)
            elif (step := getattr(self, f"_{name.lower()}", None)) is not None:
                step(argument)
            else:
                raise Refused(f"it uses the pickle instruction {name}")
        raise Refused("its index is too long")

    def _proto(self, argument: Any) -> None:
        pass

    _frame = _proto

    def _mark(self, argument: Any) -> None:
        self.stack.append(_MARK)

    def _empty_dict(self, argument: Any) -> None:
        self.stack.append({})

    def _empty_list(self, argument: Any) -> None:
        self.stack.append([])

    def _binput(self, argument: int) -> None:
        self.memo[argument] = self.stack[-1]

    _long_binput = _put = _binput

    def _memoize(self, argument: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _binget(self, argument: int) -> None:
        self.stack.append(self.memo[argument])

    _long_binget = _get = _binget

    def _tuple(self, argument: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _tuple1(self, argument: Any) -> None:
        self.stack[-1:] = [(self.stack[-1],)]

    def _tuple2(self, argument: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def _tuple3(self, argument: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def _append(self, argument: Any) -> None:
        value = self.stack.pop()
        self._top(list).append(value)

    def _appends(self, argument: Any) -> None:
        values = self._since_mark()
        self._top(list).extend(values)

    def _setitem(self, argument: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def _setitems(self, argument: Any) -> None:
        values = self._since_mark()
        for key, value in zip(values[::2], values[1::2], strict=True):
            self._set(key, value)

    def _global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(self._known(module, name))

    def _stack_global(self, argument: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self._known(module, name))

    def _reduce(self, argument: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise Refused("it calls something that is not a function")
        self.stack.append(self.called(function.name, arguments))

    def called(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """What the function of this name returns; raises `Refused` for any other function."""
        if name == "collections.OrderedDict" and arguments == ():
            return {}
        raise Refused("it calls a function")

    def _build(self, argument: Any) -> None:
        self.stack.pop()  # attributes of the state dict (its metadata): not needed

    def _set(self, key: Any, value: Any) -> None:
        if not isinstance(key, str | int | float | bool | None):
            raise Refused("a key is neither text nor a number")
        self._top(dict)[key] = value

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise Refused("it modifies something that is neither a list nor a dict")
        return self.stack[-1]

    def _known(self, module: Any, name: Any) -> Global:
        if f"{module}.{name}" not in self.globals:
            raise Refused(f"it asks for {module}.{name}")
        return Global(f"{module}.{name}")

    def _since_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("unbalanced pickle")
        values = self.stack[start + 1 :]
        del self.stack[start:]
        return values
