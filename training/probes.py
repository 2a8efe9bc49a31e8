"""Probes of a run's checkpoints: filling in masked words, and fine-tuning a copy on SQuAD.

Each probe is a separate command in its own process that uses a saved checkpoint. A probe therefore cannot affect the
run's random numbers, compiled jobs or memory.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from configs.model import BertConfig
from configs.pretraining import ProbeFlags
from launch import ranks
from training.journal import Journal
from training.stopping import STOP_SIGNALS
from utils.checkpoints import checkpoints
from utils.errors import UserError

CLOZE_FILE, SQUAD_DIRECTORY = "clozes.txt", "squad"
MASK = "[MASK]"
_ROOT = Path(__file__).resolve().parents[1]
# The command ends with its parent and is not a rank of the job.
_CHILD = (
    "import ctypes, runpy, sys; ctypes.CDLL(None).prctl(1, 15); del sys.argv[0]; "
    "runpy.run_path(sys.argv[0], run_name='__main__')"
)
_LAUNCHER_VARIABLES = (
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "LOCAL_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "GLOG_log_dir",
)


@dataclass(frozen=True)
class Probes:
    """The probes in the flags; the first rank runs them while the others wait."""

    flags: ProbeFlags
    directory: Path  # the run's log directory

    @classmethod
    def of(cls, flags: ProbeFlags, directory: Path, bert: BertConfig, vocab_file: Path | None) -> Probes | None:
        """Creates the probes; None if the flags request none.

        Raises:
            UserError: a probe does not work with this model.
        """
        if not (flags.squad_frequency or flags.cloze_file):
            return None
        if vocab_file is None:
            raise UserError("--squad_frequency and --cloze_file need the vocabulary: set it with --vocab_file.")
        if flags.squad_frequency:
            longest = flags.squad().features.max_seq_length
            if longest > bert.max_position_embeddings:
                raise UserError(
                    f"--squad_config {flags.squad_config}: max_seq_length {longest} is more than the model's "
                    f"{bert.max_position_embeddings} positions: lower it there."
                )
        if flags.cloze_file:
            _sentences(flags.cloze_file)
        return cls(flags, directory)

    def due(self, step: int) -> bool:
        """Whether a probe needs a checkpoint after this many updates."""
        return bool(self.flags.squad_frequency) and step % self.flags.squad_frequency == 0

    def __call__(self, checkpoint: Path, step: int, last: bool, journal: Journal) -> None:
        """Probes the checkpoint after `step` updates; `last` is True at the end. Finished probes are not repeated."""
        if self.flags.cloze_file:
            self._fill(self.flags.cloze_file, checkpoint, step, journal)
        due = self.due(step) or (last and self.flags.squad_frequency)
        if due and not journal.evaluated(step, "eval_squad_f1"):
            scores = self._squad(checkpoint, step, journal)
            if scores:
                journal.evaluation_row(step, {f"eval_squad_{name}": float(value) for name, value in scores.items()})

    def _fill(self, cloze_file: str, checkpoint: Path, step: int, journal: Journal) -> None:
        table, title = self.directory / CLOZE_FILE, f"clozes after step {step}"
        if table.exists() and title in table.read_text(encoding="utf-8").split("\n"):
            return
        answers = self.directory / f".{CLOZE_FILE}.jsonl"
        flags = ["--model_path", checkpoint, "--task", "fill-mask", "--top_k", 3, "--device", "cpu"]
        if not self._run(
            "run_infer.py", [*flags, "--input_path", cloze_file, "--output_path", answers], title, journal
        ):
            return
        rows = [json.loads(line)["answer"] for line in answers.read_text(encoding="utf-8").splitlines()]
        answers.unlink()
        text = "\n".join([title, *cloze_table(_sentences(cloze_file), rows)])
        journal.say(text)
        with table.open("a", encoding="utf-8") as file:
            file.write(text + "\n\n")

    def _squad(self, checkpoint: Path, step: int, journal: Journal) -> dict[str, Any]:
        directory = self.directory / SQUAD_DIRECTORY
        flags = ["--config", self.flags.squad_config, "--do_train", "--do_eval", "--init_checkpoint", checkpoint]
        title = f"SQuAD after step {step}"
        journal.say(f"{title}: fine-tuning a copy, see {directory / 'log.txt'}")
        ended = self._run("run_squad.py", [*flags, "--output_dir", directory, "--overwrite_output_dir"], title, journal)
        for clone in checkpoints(directory):
            shutil.rmtree(clone)
        return json.loads((directory / "eval_results.json").read_text()) if ended else {}

    def _run(self, script: str, flags: Sequence[Any], title: str, journal: Journal) -> bool:
        """Runs another command; returns whether it succeeded. If not, the log says why, and training continues."""
        log = self.directory / SQUAD_DIRECTORY / "log.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        # The other ranks are waiting, so the command may use all threads.
        left_out = _LAUNCHER_VARIABLES if ranks.size() == 1 else (*_LAUNCHER_VARIABLES, "OMP_NUM_THREADS")
        environment = {name: value for name, value in os.environ.items() if name not in left_out}
        environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), environment.get("PYTHONPATH", "")])
        command = [sys.executable, "-c", _CHILD, str(_ROOT / script), *map(str, flags)]
        with log.open("w") as output:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
            )
            with _forwarding_signals(process) as received:
                process.wait()
        if process.returncode and not received:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().split("\n")
            journal.say(f"{title} failed, training continues: {lines[-1]} (its whole output is in {log})")
        return process.returncode == 0


def cloze_table(sentences: Sequence[str], answers: Sequence[Any]) -> list[str]:
    """One line per sentence, with the most likely tokens of each [MASK] and their probabilities.

    Args:
        sentences: the sentences with masks.
        answers: for each sentence, a list of {"token_str", "score"}, most likely first; with several masks, a list
            of such lists.
    """
    width = max(map(len, sentences))
    lines = []
    for sentence, answer in zip(sentences, answers, strict=True):
        masks = [answer] if isinstance(answer[0], dict) else answer
        best = " | ".join("  ".join(f"{token['token_str']} {token['score']:.0%}" for token in mask) for mask in masks)
        lines.append(f"  {sentence:{width}}  {best}")
    return lines


def _sentences(cloze_file: str) -> list[str]:
    """The lines of a file; raises UserError if one has no [MASK]."""
    try:
        lines = Path(cloze_file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--cloze_file {cloze_file} cannot be read: {error}.") from None
    for number, line in enumerate(lines, 1):
        if MASK not in line:
            raise UserError(
                f"--cloze_file {cloze_file}, line {number}: there is no {MASK}: add one for each word to fill in."
            )
    if not lines:
        raise UserError(f"--cloze_file {cloze_file} is empty: write a sentence with a {MASK} on each line.")
    return lines


@contextmanager
def _forwarding_signals(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Forwards signals to the other process, which ends first; yields the received signals."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def forward(number: int, frame: FrameType | None) -> None:
        received.append(number)
        process.terminate()
        handler = previous[number]
        if callable(handler):
            handler(number, frame)

    for number in map(int, STOP_SIGNALS):
        if signal.getsignal(number) is not signal.SIG_IGN:
            previous[number] = signal.signal(number, forward)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) is forward:  # otherwise the previous handler was restored
                signal.signal(number, handler)
    for number in received:
        if previous[number] == signal.SIG_DFL:
            signal.raise_signal(number)
