"""Random mixtures of flags that contradict each other, are out of range or name nothing, over every command."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.faults.report import Attack
from benchmarks.faults.samples import MODEL, run
from configs.cli import parse
from configs.convert import ConvertConfig
from configs.flag_specs import Flag, flags_of
from configs.glue import GlueConfig
from configs.infer import InferConfig
from configs.prepare import CleanConfig, InspectConfig, PretrainingDataConfig, VerifyConfig, VocabConfig
from configs.pretraining import PretrainingConfig
from configs.squad import SquadConfig, SquadDataConfig
from utils.errors import UserError

ODD = (
    *("nan", "inf", "-inf", "-1", "0", "1", "3", "1e30", "99999999999999999999", "9" * 400, "0.5", "1e-300", "", " "),
    *(
        "/dev/null/x",
        "/proc/self/mem",
        "/",
        ".",
        "..",
        "~",
        "x" * 300,
        "file:///x",
        "a\0b",
        "\u2028",
        "\x1b[2J",
        "true",
    ),
)
# By what --help shows in place of a value: numbers in and out of range, of which most mixtures take theirs.
FITTING = {
    "N": ("0", "1", "2", "3", "7", "24", "64", "1000", "100000", "10000000", "1000000000", "2147483648", "-1"),
    "X": ("0", "1e-300", "1e-6", "0.1", "0.5", "0.999", "1", "7", "1e6", "1e30", "1e300", "-0.5"),
    "True|False": ("True", "False"),
}
# What a started process may never show, whatever it was given.
_UNCLEAR = re.compile(r"Traceback \(most recent call last\)|terminate called|Check failed|Segmentation fault")
# Flags that would write elsewhere, or make a run last for hours.
_PARSED_ONLY = re.compile("dir|path|output|file|steps|epochs|dupe_factor|seeds")
_LIMIT = 120.0  # seconds of one command


def commands(samples: Path, output: Path) -> dict[str, tuple[type, list[str]]]:
    """{script and subcommand: (its flags, words with which it ends in seconds)}."""
    data, model = samples / "ofrecord", samples / "hf"
    vocab, text = ["--vocab_file", str(samples / "vocab.txt")], ["--input_file", str(samples / "text.txt")]
    training = [*MODEL, "--ofrecord_path", str(data), "--max_steps", "2", "--output_dir", str(output)]
    tuned = ["--init_checkpoint", str(model), "--device", "cpu", "--max_steps", "2", "--output_dir", str(output)]
    lengths = ["--max_seq_length", "24", "--max_query_length", "9", "--doc_stride", "7"]
    return {
        "run_eager_pretraining.py": (PretrainingConfig, training),
        "run_pretraining.py": (PretrainingConfig, training),
        "run_squad.py": (
            SquadConfig,
            [*tuned, *lengths, "--train_file", str(samples / "squad/train.json"), "--do_eval", "0"],
        ),
        "run_glue.py": (
            GlueConfig,
            [*tuned, "--task_name", "rte", "--data_dir", str(samples / "glue"), "--max_seq_length", "24"],
        ),
        "run_infer.py": (
            InferConfig,
            ["--model_path", str(model), "--text", "anna [MASK] in paris .", "--device", "cpu"],
        ),
        "convert_checkpoint.py": (ConvertConfig, ["--input", str(model), "--output", str(output)]),
        "prepare_data.py clean": (CleanConfig, [*text, "--output_dir", str(output)]),
        "prepare_data.py vocab": (VocabConfig, [*text, "--vocab_file", str(output / "v.txt"), "--vocab_size", "150"]),
        "prepare_data.py pretraining": (
            PretrainingDataConfig,
            [*text, *vocab, "--output_dir", str(output), "--max_seq_length", "24", "--max_predictions_per_seq", "4"],
        ),
        "prepare_data.py squad": (
            SquadDataConfig,
            ["--input_file", str(samples / "squad/train.json"), *vocab, *lengths, "--output_dir", str(output)],
        ),
        "prepare_data.py inspect": (InspectConfig, ["--input_dir", str(data), "--report_dir", str(output)]),
        "prepare_data.py verify": (VerifyConfig, ["--input_dir", str(data)]),
    }


def mixture(flags: Sequence[Flag], rng: random.Random) -> list[str]:
    """One to four flags with odd, other or repeated values."""
    words: list[str] = []
    for spec in rng.sample(list(flags), min(len(flags), rng.choice((1, 2, 3, 4)))):
        fitting = spec.choices or FITTING.get(spec.metavar, ODD)
        value = rng.choice(fitting if rng.random() < 0.9 else ODD)
        words += [f"--{rng.choice(spec.names)}={value}"]
    return words


def parse_mixtures(samples: Path, seconds: float, seed: int) -> Attack:
    """Parses mixtures of flags, without starting a command."""
    attack, rng, deadline = Attack("flags, parsed"), random.Random(seed), time.monotonic() + seconds
    every = list(commands(samples, samples / "mixture").items())
    while time.monotonic() < deadline:
        name, (config, words) = rng.choice(every)
        mixed = mixture(flags_of(config), rng)
        try:
            parse(config, [*words, *mixed])
            attack.add("right")
        except UserError as error:
            attack.add("clear error" if len(str(error)) < 2000 else "long message", f"{name} {mixed}")
        except BaseException as error:
            attack.add("traceback", f"{name} {mixed}: {error!r}")
    return attack


def run_mixtures(samples: Path, seconds: float, seed: int) -> Attack:
    """Starts commands with mixtures of flags; each must succeed or end with one sentence."""
    attack, rng, deadline = Attack("flags, run"), random.Random(seed), time.monotonic() + seconds
    output = samples / "mixture"
    every = list(commands(samples, output).items())
    while time.monotonic() < deadline:
        name, (config, words) = rng.choice(every)
        flags = [spec for spec in flags_of(config) if not _PARSED_ONLY.search(spec.name)]
        mixed = mixture(flags, rng)
        shutil.rmtree(output, ignore_errors=True)
        output.mkdir()
        try:
            ended = run(*name.split(), *words, *(word.replace("\0", "") for word in mixed), timeout=_LIMIT)
        except Exception as error:  # a hang
            attack.add("hang", f"{name} {mixed}: {error!r}")
            continue
        where = f"{name} {mixed}: exit code {ended.returncode}: {ended.stderr[-500:]}"
        if _UNCLEAR.search(ended.stderr) or ended.returncode not in (0, 1, 2):
            attack.add("traceback", where)
        elif ended.returncode:
            attack.add("clear error" if "error: " in ended.stderr else "no sentence", where)
        else:
            attack.add("right")
    shutil.rmtree(output, ignore_errors=True)
    return attack
