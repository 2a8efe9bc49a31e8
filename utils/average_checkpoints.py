"""Writes a model directory with the mean of a run's last checkpoints, or with the average that a checkpoint stores.

python3 utils/average_checkpoints.py RUN_DIR --last 5 --output averaged
python3 utils/average_checkpoints.py RUN_DIR --ema --output averaged     # a run with --ema_decay or --swa_start
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # as a script, find the project's packages one level up

from configs.cli import run
from utils.atomic_files import atomic_directory
from utils.checkpoints import checkpoints
from utils.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    Arrays = Mapping[str, np.ndarray]


def uniform_average(directories: Sequence[Path]) -> Arrays:
    """The mean of the weights in several model directories, summed in float64 and rounded once.

    Raises:
        UserError: a directory's weights cannot be read, or differ in names or shapes from the first one's.
    """
    import numpy as np

    from modeling.pretrained import WEIGHTS_FILE, read_weights

    first = read_weights(directories[0] / WEIGHTS_FILE)
    sums = {name: array.astype(np.float64) for name, array in first.items()}
    for directory in directories[1:]:
        arrays = read_weights(directory / WEIGHTS_FILE)
        if {name: array.shape for name, array in arrays.items()} != {name: a.shape for name, a in sums.items()}:
            raise UserError(f"{directory} is a different model from {directories[0]}: average checkpoints of one run.")
        for name, array in arrays.items():
            sums[name] += array
    return {name: (total / len(directories)).astype(first[name].dtype) for name, total in sums.items()}


def stored_average(checkpoint: Path) -> Arrays:
    """The average that a checkpoint of a run with --ema_decay or --swa_start stores; frozen weights are unchanged.

    Raises:
        UserError: the checkpoint stores none, or a file cannot be read.
    """
    from modeling.pretrained import WEIGHTS_FILE, read_weights
    from training.averages import FLAGS
    from training.checkpoint import OPTIMIZER_FILE

    weights, state = read_weights(checkpoint / WEIGHTS_FILE), read_weights(checkpoint / OPTIMIZER_FILE)
    averages = {name.rpartition(".")[0]: array for name, array in state.items() if name.rpartition(".")[2] in FLAGS}
    if not averages:
        raise UserError(
            f"{checkpoint} contains no average: train with {' or '.join(FLAGS.values())}, or average with --last N."
        )
    return {name: averages.get(name, array) for name, array in weights.items()}


def write_like(checkpoint: Path, arrays: Arrays, output: Path) -> None:
    """Writes a model directory with these weights, and the configuration and tokenizer of a checkpoint."""
    from modeling.pretrained import WEIGHTS_FILE, write_weights

    if output.exists():
        raise UserError(f"--output {output} already exists: choose a new directory.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_directory(output) as partial:
        for file in sorted(checkpoint.iterdir()):
            if file.is_file() and file.name != WEIGHTS_FILE:
                (partial / file.name).write_bytes(file.read_bytes())
        write_weights(partial / WEIGHTS_FILE, dict(arrays))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN_DIR", help="the output directory of a training run")
    parser.add_argument("--last", type=int, default=3, metavar="N", help="checkpoints to average (%(default)s)")
    parser.add_argument(
        *("--ema", "--swa"),
        dest="stored",
        action="store_true",
        help="take the average that the newest checkpoint stores instead (training with --ema_decay or --swa_start)",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the model directory to write")
    arguments = parser.parse_args()
    found = checkpoints(arguments.run)
    wanted = 1 if arguments.stored else arguments.last
    if wanted < 1:
        raise UserError(f"--last must be at least 1, not {wanted}.")
    if len(found) < wanted:
        raise UserError(
            f"{arguments.run} has {len(found)} checkpoints, not {wanted}: lower --last, or train with a higher "
            "--keep_last."
        )
    used = found[-wanted:]
    arrays = stored_average(used[0]) if arguments.stored else uniform_average(used)
    write_like(used[-1], arrays, arguments.output)
    what = "the average in" if arguments.stored else "the mean of"
    print(f"wrote {what} {', '.join(path.name for path in used)} to {arguments.output}")


if __name__ == "__main__":
    run(main)
