"""Every reader of this project: which files it reads, and how a damaged copy of them is read to its end."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.faults.samples import ROOT
from configs.cli import parse
from configs.pretraining import PretrainingConfig
from configs.squad import FeatureFlags
from conversion import read_checkpoint
from conversion.torch_pickle import read_torch_file
from data.glue import GLUE_TASKS, read_examples
from data.reading.loader import Records, evaluation_batches
from data.sources import open_source
from data.squad import convert_examples_to_features, read_squad_examples
from data.tokenization import build_tokenizer, load_vocab
from utils.checkpoints import newest_checkpoint
from utils.json_file import read_settings


class Target(NamedTuple):
    """A directory of samples, the files in it that are damaged (all, if a pattern), and the reader."""

    directory: Path
    files: str  # a pattern below the directory
    read: Callable[[Path], object]


def targets(samples: Path) -> dict[str, Target]:
    """{kind: target}; TensorFlow's checkpoints are among them if it is installed."""
    torch = ROOT / "tests" / "fixtures" / "torch"
    found = {
        "OFRecord": Target(samples / "ofrecord", "part-*", _read_records),
        "JSON lines": Target(samples / "jsonl", "part-*", _read_records),
        "token streams": Target(samples / "tokens", "part-*", _read_records),
        "dataset.json": Target(samples / "ofrecord", "dataset.json", _read_records),
        "dataset.json of tokens": Target(samples / "tokens", "dataset.json", _read_records),
        "safetensors": Target(samples / "hf", "model.safetensors", read_checkpoint),
        "config.json": Target(samples / "hf", "config.json", read_checkpoint),
        "torch": Target(torch, "*.bin", _read_torch),
        "lazy": Target(samples / "lazy", "**/*", read_checkpoint),
        "oneflow": Target(samples / "oneflow", "**/*", lambda path: read_checkpoint(path, trust=True)),
        "vocab.txt": Target(samples / "hf", "vocab.txt", _read_vocabulary),
        "tokenizer_config.json": Target(samples / "hf", "tokenizer_config.json", _read_vocabulary),
        "SQuAD": Target(samples / "squad", "train.json", _read_squad),
        "GLUE TSV": Target(samples / "glue" / "RTE", "*.tsv", _read_glue),
        "--config": Target(samples / "flags", "flags.json", _read_flags),
        "--phases": Target(samples / "flags", "phases.json", _read_phases),
        "state.json": Target(samples / "run", "checkpoint-3/*/state.json", _read_state),
        "optimizer.safetensors": Target(samples / "run", "checkpoint-3/*/optimizer.safetensors", _read_state),
        "latest": Target(samples / "run", "latest", _read_state),
        "metrics.jsonl": Target(samples / "run", "metrics.jsonl", _read_metrics),
    }
    if importlib.util.find_spec("tensorflow") and (samples / "tf").exists():
        found["TensorFlow"] = Target(samples / "tf", "*", read_checkpoint)
    return found


def _read_records(path: Path) -> None:
    for _ in evaluation_batches(Records(open_source(path)), rows=16):
        pass


def _read_torch(path: Path) -> None:
    for file in path.glob("*.bin"):
        read_torch_file(file)


def _read_vocabulary(path: Path) -> None:
    build_tokenizer(load_vocab(path / "vocab.txt"), True).encode("anna lives in paris .")
    read_settings(path / "tokenizer_config.json")


def _read_squad(path: Path) -> None:
    settings = FeatureFlags(vocab_file=str(path / "vocab.txt"), max_seq_length=40, max_query_length=10, doc_stride=8)
    for is_training in (True, False):
        examples = read_squad_examples(str(path / "train.json"), is_training=is_training, version_2_with_negative=False)
        for _ in convert_examples_to_features(examples, settings, num_workers=1):
            pass


def _read_glue(path: Path) -> None:
    for name in ("train", "dev", "test"):
        read_examples(path, GLUE_TASKS["rte"], name)


def _read_flags(path: Path) -> None:
    parse(PretrainingConfig, ["--config", str(path / "flags.json")])


def _read_phases(path: Path) -> None:
    parse(PretrainingConfig, ["--phases", str(path / "phases.json")]).job_flags()


def _read_state(path: Path) -> None:
    from training.checkpoint import load_training_state  # imports the framework, which the other readers do not need

    checkpoint = newest_checkpoint(path)
    assert checkpoint is not None
    load_training_state(checkpoint)


def _read_metrics(path: Path) -> None:
    from training.journal import keep_rows_before, read_rows

    json.dumps(read_rows(path / "metrics.jsonl"))
    keep_rows_before(path / "metrics.jsonl", 2)
