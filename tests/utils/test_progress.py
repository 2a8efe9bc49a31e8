"""Progress on standard error."""

import os
import sys

from utils import progress


def test_plain_lines_without_a_terminal(capsys, monkeypatch):
    clock = iter(range(0, 1000, 11))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.Progress("pairs", 200, "tokens") as bar:
        bar.update(50)
    assert capsys.readouterr().err == "pairs: 50 of 200 tokens, 2 tokens/s, 66 s left\n"


def test_a_bar_on_a_terminal_even_of_size_zero(monkeypatch):
    terminal, end = os.openpty()  # of 0 columns and 0 lines, as under script(1)
    with os.fdopen(end, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        with progress.Progress("pairs", 200, "tokens") as bar:
            bar.update(200)
        stderr.write("end")
        stderr.flush()
        shown = b""
        while not shown.endswith(b"end"):
            shown += os.read(terminal, 1 << 16)
    os.close(terminal)
    assert b"pairs: 100%" in shown
    assert b"200/200" in shown
