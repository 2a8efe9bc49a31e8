"""A checkpoint of any format as canonical numpy arrays, and back: find out the format, read, check, write, verify."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.model import BertConfig
from conversion import huggingface, lazy, oneflow_save, tensorflow
from conversion.hub import local_directory
from conversion.names import Report, State, architecture, from_scheme, to_scheme
from utils.checkpoints import model_directory
from utils.errors import UserError
from utils.json_file import read_settings

FORMATS = ("hf", "oneflow", "lazy", "tf")
_CONFIG_FILES = ("config.json", "bert_config.json")
_TOKENIZER_FILES = ("vocab.txt", "tokenizer_config.json")
_LABEL_SETTINGS = ("id2label", "label2id", "problem_type")


@dataclass(frozen=True)
class Checkpoint:
    """What was read.

    Attributes:
        path: where: a directory, a weights file or a TensorFlow prefix.
        format: one of `FORMATS`.
        config: the model's shape.
        state: {Hugging Face name: float32 array}.
        settings: the configuration file as it stands (it may name the labels).
        report: what became of each tensor.
    """

    path: Path
    format: str
    config: BertConfig
    state: State
    settings: dict[str, Any]
    report: Report

    @property
    def architecture(self) -> str:
        """The Hugging Face class these tensors belong to."""
        return architecture(self.state, labels_tokens=self.config.labels_tokens)

    def file(self, name: str) -> Path | None:
        """A file that lies beside the weights, for example `vocab.txt`."""
        path = _directory(self.path) / name
        return path if path.is_file() else None

    def json(self, name: str) -> dict[str, Any]:
        """The content of a small JSON file beside the weights, {} where there is none."""
        file = self.file(name)
        return read_settings(file) if file else {}


def read_checkpoint(
    path: str | Path,
    source: str = "auto",
    *,
    config: str | Path | dict[str, Any] | None = None,
    sizes: dict[str, Any] | None = None,
    trust: bool = False,
    allow_partial: bool = False,
) -> Checkpoint:
    """Reads a checkpoint.

    Args:
        path: a model directory, a weights file, a TensorFlow prefix, a training run's directory, or a hub name.
        source: its format; "auto" finds out.
        config: a configuration file, or its content, in place of the one beside the weights.
        sizes: settings that a user gave besides; where the configuration tells them too they must agree.
        trust: whether formats may be read that need unpickling (`flow.save`).
        allow_partial: whether tensors may be missing or have another shape; these are left out.

    Raises:
        UserError: none of the formats, damaged, not trusted, no BERT, or tensors missing or of another shape.
    """
    path = model_directory(local_directory(str(path)))
    settings = config if isinstance(config, dict) else _settings(path, Path(config) if config else None)
    for name, value in (sizes or {}).items():
        if settings.get(name, value) != value:
            raise UserError(f"--{name} {value} contradicts the configuration of {path}, which says {settings[name]}.")
    settings = {**settings, **(sizes or {})}
    positions = settings.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise UserError(
            f"{path} has {positions!r} position embeddings, which BERT has not: only 'absolute' can be computed."
        )
    source = detect(path) if source == "auto" else source
    stored, flat = _read_stored(path, source, trust)
    try:
        shape, state, report = from_scheme(stored, source, settings, flat=flat)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not report.complete and not allow_partial:
        problems = report.mismatched + [f"{name} is missing" for name in report.missing]
        raise UserError(
            f"{path} does not fit: {problems[0]}"
            + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
            + "; give the right configuration, or --allow_partial to leave such tensors out."
        )
    return Checkpoint(path, source, shape, state, settings, report)


def detect(path: Path) -> str:
    """The format of what lies at `path`.

    Raises:
        UserError: it is none of them; the message lists what was looked for.
    """
    if huggingface.find(path):
        return "hf"
    if oneflow_save.is_oneflow_save(path):
        return "oneflow"
    if lazy.is_lazy(path):
        return "lazy"
    if tensorflow.find(path):
        return "tf"
    if not path.exists():
        raise UserError(f"{path} does not exist: name a model directory or a checkpoint file.")
    raise UserError(
        f"{path} is no checkpoint: looked for {', '.join(huggingface.FILES)} (Hugging Face), pickled_data "
        f"(flow.save), snapshot_done or */out (lazy OneFlow) and *.ckpt.index (TensorFlow)."
    )


def write_checkpoint(
    checkpoint: Checkpoint,
    directory: str | Path,
    target: str = "hf",
    *,
    vocab_file: str | Path | None = None,
    overwrite: bool = False,
) -> None:
    """Writes a checkpoint beside its final name, reads it back, compares every bit, and renames it.

    Args:
        checkpoint: what to write.
        directory: where; it must not exist, be empty, or `overwrite` be true.
        target: the format.
        vocab_file: a vocabulary to put in, in place of the one beside the weights that were read.

    Raises:
        UserError: the directory is in use, there is no room, what was read back differs, or the format cannot say
            what this model computes.
    """
    directory = Path(directory)
    if checkpoint.config.is_variant and target in ("tf", "lazy"):
        raise UserError(
            f"{checkpoint.path} is a variant of BERT's encoder, which programs that read {target} do not know."
        )
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--output {directory} is a file: name a directory.")
    if directory.is_dir() and any(directory.iterdir()) and not overwrite:
        raise UserError(f"--output {directory} is not empty: name another one, or add --overwrite_output_dir.")
    vocabulary = Path(vocab_file) if vocab_file else checkpoint.file(_TOKENIZER_FILES[0])
    if vocabulary is not None and not vocabulary.is_file():
        raise UserError(f"--vocab_file {vocabulary} does not exist.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(array.nbytes for array in checkpoint.state.values())
    if shutil.disk_usage(directory.parent).free < needed:
        raise UserError(f"--output {directory} needs {needed / 1e6:.0f} MB, and the disk has less: make room.")
    partial = directory.with_name(f".{directory.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        _write_stored(checkpoint.state, partial, target)
        settings = checkpoint.config.to_huggingface(checkpoint.architecture)
        settings |= {name: checkpoint.settings[name] for name in _LABEL_SETTINGS if name in checkpoint.settings}
        name = _CONFIG_FILES[0 if target in ("hf", "oneflow") else 1]
        (partial / name).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        for name, file in zip(_TOKENIZER_FILES, (vocabulary, checkpoint.file(_TOKENIZER_FILES[1])), strict=True):
            if file is not None:
                shutil.copyfile(file, partial / name)
        _verify(checkpoint, partial, target)
        _publish(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read_stored(path: Path, source: str, trust: bool) -> tuple[dict[str, np.ndarray], bool]:
    if source == "lazy":
        return lazy.read(path)
    if source == "tf":
        return tensorflow.read(path), False
    if source == "oneflow":
        return oneflow_save.read(path, trust=trust), False
    return huggingface.read(path), False


def _write_stored(state: State, directory: Path, target: str) -> None:
    writers = {"hf": huggingface.write, "oneflow": oneflow_save.write, "lazy": lazy.write, "tf": tensorflow.write}
    writers[target](to_scheme(state, target), directory)


def _verify(checkpoint: Checkpoint, written: Path, target: str) -> None:
    back = read_checkpoint(written, target, trust=True, allow_partial=True)
    same = back.config == checkpoint.config and back.state.keys() == checkpoint.state.keys()
    # Bits and not values: a NaN equals nothing, and must come back all the same.
    if not same or any((back.state[n].view(np.int32) != a.view(np.int32)).any() for n, a in checkpoint.state.items()):
        raise UserError(f"what was written to {written.parent} did not read back as it was: check the disk.")


def _publish(partial: Path, directory: Path) -> None:
    """Syncs every file, then puts the directory in place of what may be there."""
    for file in sorted(path for path in partial.rglob("*") if path.is_file()):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    old = directory.with_name(f".{directory.name}.old-{os.getpid()}")
    if directory.exists():
        directory.rename(old)
    partial.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def _directory(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _settings(path: Path, file: Path | None) -> dict[str, Any]:
    """The content of the configuration file, {} where there is none."""
    if file and not file.is_file():
        raise UserError(f"--config {file} does not exist.")
    files = [file] if file else [_directory(path) / name for name in _CONFIG_FILES]
    return next((read_settings(candidate) for candidate in files if candidate.is_file()), {})
