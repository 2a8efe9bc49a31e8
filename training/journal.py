"""What a run tells: the log line, `metrics.jsonl`, TensorBoard events, and a progress bar where there is a terminal."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm

METRICS_FILE = "metrics.jsonl"
# The contract's log line, which people parse: names and their order.
LINE = ("total_loss", "mlm_loss", "nsp_loss", "pred_acc", "throughput")


class Journal:
    """Written by the first rank; on others every method does nothing.

    Rows of `first_step` and later that an earlier run left are cut off, unless it is None.
    """

    def __init__(self, directory: Path, *, first_step: int | None, total_steps: int, active: bool = True) -> None:
        self.active = active
        if not active:
            return
        directory.mkdir(parents=True, exist_ok=True)
        if first_step is not None:
            keep_rows_before(directory / METRICS_FILE, first_step)
        self._rows = open(directory / METRICS_FILE, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        rows = read_rows(directory / METRICS_FILE)
        self._evaluated = {(row["step"], name) for row in rows if "total_loss" not in row for name in row}
        self._events = SummaryWriter(str(directory / "tensorboard"), purge_step=first_step or None)
        self._bar = tqdm(
            total=total_steps, initial=first_step or 0, unit="step", dynamic_ncols=True, disable=not sys.stderr.isatty()
        )

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.active:
            self._bar.close()
            self._rows.close()
            self._events.close()

    def advance(self) -> None:
        """One more step is done."""
        if self.active:
            self._bar.update()

    def training_row(self, step: int, epoch: int, metrics: dict[str, float | None]) -> None:
        """The log line, the row and the events of one training step."""
        if not self.active:
            return
        shown = ", ".join(f"{name}: {metrics[name]:.3f}" for name in LINE if metrics.get(name) is not None)
        self.say(f"step: {step}, {shown}, epoch: {epoch} {time.time():.3f}")
        self._bar.set_postfix(loss=f"{metrics['total_loss']:.3f}", refresh=False)
        self._write({"step": step, "epoch": epoch, **metrics})

    def evaluated(self, step: int, name: str) -> bool:
        """Whether the metrics hold an evaluation of that name after so many steps."""
        return self.active and (step, name) in self._evaluated

    def evaluation_row(self, step: int, metrics: dict[str, float]) -> None:
        """The line, the row and the events of one evaluation; keys begin with `eval_`."""
        if not self.active:
            return
        self.say(
            f"evaluation after step {step}: " + ", ".join(f"{name}: {value:.4g}" for name, value in metrics.items())
        )
        self._evaluated |= {(step, name) for name in metrics}
        self._write({"step": step, **metrics})

    def say(self, line: str) -> None:
        """One line on standard output, above the bar."""
        if self.active:
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()

    def _write(self, row: dict[str, Any]) -> None:
        row["time"] = round(time.time(), 3)
        self._rows.write(json.dumps(row) + "\n")
        self._rows.flush()
        for name, value in row.items():
            if isinstance(value, float) and name != "time":
                self._events.add_scalar(name, value, row["step"])


def keep_rows_before(path: Path, step: int) -> None:
    """Cuts the rows of `step` and later from a metrics file, and a last line that was not written to its end; before
    step 0 there is nothing, not even an evaluation."""
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if step else []
    kept = [line for line in lines if _step_of(line) < step]
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    partial.rename(path)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """All complete rows of a metrics file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def _step_of(line: str) -> float:
    # An evaluation's row carries the number of steps done, a training row the number of its step.
    try:
        row = json.loads(line)
        return row["step"] if "total_loss" in row else row["step"] - 1
    except (ValueError, KeyError, TypeError):
        return float("inf")
