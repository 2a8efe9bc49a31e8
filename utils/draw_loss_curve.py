"""Draws the losses of several runs in one figure, to see whether they learn and whether they agree.

    python3 utils/draw_loss_curve.py RUN_DIR [RUN_DIR ...] --output curves.png

A run is an output directory with `metrics.jsonl`, or a text file of log lines. With several runs the command also
prints the largest difference of each from the first, over the steps that both have.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, find the project's packages one level up

from configs.cli import run
from utils.errors import UserError

Curve = dict[int, float]
_LOG_LINE = re.compile(r"step: (\d+), total_loss: ([-+.\deinfa]+)")


def read_curves(path: Path) -> tuple[Curve, Curve]:
    """({step: total loss}, {steps done: evaluation loss}) of a run.

    Raises:
        UserError: the file cannot be read, or contains no training loss.
    """
    file = path / "metrics.jsonl" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): pass a run's output directory.") from None
    training: Curve = {}
    evaluation: Curve = {}
    if file.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n")[:-1], 1):
            try:
                row = json.loads(line)
                for name, curve in (("total_loss", training), ("eval_total_loss", evaluation)):
                    if name in row:
                        curve[int(row["step"])] = float(row[name])
            except (ValueError, TypeError, KeyError, RecursionError):
                raise UserError(f"{file}, line {number} is not a row of metrics: use another file.") from None
    else:
        training = {int(step): float(loss) for step, loss in _LOG_LINE.findall(text)}
    if not training:
        raise UserError(f"{file} contains no training loss yet: wait for the run's first log line.")
    return training, evaluation


def largest_difference(first: Curve, other: Curve) -> tuple[float, int] | None:
    """The largest difference relative to the first run's loss, and its step; None if they have no step in common."""
    common = sorted(set(first) & set(other))
    if not common:
        return None
    return max((abs(other[step] - first[step]) / max(abs(first[step]), 1e-12), step) for step in common)


def draw(runs: dict[str, tuple[Curve, Curve]], output: Path) -> None:
    """Writes the figure: one line per run, and circles for its evaluations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    styles = ["-", "--", "-.", ":"]
    for number, (name, (training, evaluation)) in enumerate(runs.items()):
        color = f"C{number}"
        axes.plot(list(training), list(training.values()), styles[number % 4], color=color, label=name, linewidth=1.5)
        if evaluation:
            axes.plot(
                list(evaluation),
                list(evaluation.values()),
                "o",
                color=color,
                markerfacecolor="white",
                label=f"{name}, evaluation",
            )
    axes.set_xlabel("step")
    axes.set_ylabel("total loss [nats]")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(output, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument(
        "--output", type=Path, default=Path("loss_curve.png"), help="the image file to write (default: %(default)s)"
    )
    arguments = parser.parse_args()
    names = _distinct_names(arguments.runs)
    runs = {name: read_curves(path) for name, path in zip(names, arguments.runs, strict=True)}
    first = next(iter(runs))
    for name in list(runs)[1:]:
        difference = largest_difference(runs[first][0], runs[name][0])
        if difference is None:
            print(f"{name}: no step in common with {first}")
        else:
            print(f"{name}: largest relative difference from {first} {difference[0]:.2e}, at step {difference[1]}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    draw(runs, arguments.output)
    print(f"wrote {arguments.output}")


def _distinct_names(paths: list[Path]) -> list[str]:
    """The last part of each path, or the whole path if two paths end alike."""
    last = [path.resolve().name for path in paths]
    return [name if last.count(name) == 1 else str(path) for name, path in zip(last, paths, strict=True)]


if __name__ == "__main__":
    run(main)
