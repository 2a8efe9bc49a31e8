"""Reads a checkpoint of any format into arrays under Hugging Face's names, and writes it in any format."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from configs.model import BertConfig, check_is_bert
from configs.pooling import Pooling
from conversion import families, flax, huggingface, lazy, oneflow_save, onnx_export, onnx_file, tensorflow
from conversion.byte_level import BYTE_LEVEL_FILES
from conversion.hub import local_directory
from conversion.model_directory import SETTINGS_FILES, foreign_files
from conversion.names import NEXT_SENTENCE, Report, State, architecture, from_scheme, rows, to_scheme
from conversion.onnx_export import OnnxOptions
from conversion.tokenizer_files import TOKENIZER_FILES, find_vocabulary, read_vocabulary
from utils.checkpoints import model_directory
from utils.errors import UserError
from utils.json_file import read_settings
from utils.messages import warn

FORMATS = ("hf", "oneflow", "lazy", "tf", "flax", "onnx")
TARGETS = ("hf", "oneflow", "lazy", "tf", "onnx")
_SCHEMES = {"flax": "hf", "onnx": "hf"}  # formats whose readers return Hugging Face's names
_CONFIG_FILES = ("config.json", "bert_config.json")
# Everything that conversions write, in any format. Variables of the lazy and flow.save formats are directories.
_WRITTEN = (
    *SETTINGS_FILES,
    *("bert_config.json", "model.safetensors", "model.onnx", "model.onnx_data"),
    *("bert_model.ckpt.index", "bert_model.ckpt.data-*-of-*"),
    *("snapshot_done", "pickled_data", "*/out", "*/meta"),
)
_LABEL_SETTINGS = ("id2label", "label2id", "problem_type")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: a directory, a weights file or a TensorFlow prefix.
        format: one of `FORMATS`.
        config: the model's shape.
        state: {Hugging Face name: float32 array}.
        settings: the configuration file's content (it may name the labels), without its null values.
        report: what happened to each tensor.
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

    @property
    def directory(self) -> Path:
        """The directory that contains the weights."""
        return _directory(self.path)

    @property
    def vocab_file(self) -> Path | None:
        """The vocabulary next to the weights, if there is one."""
        return find_vocabulary(self.directory)


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
        source: its format; "auto" detects it.
        config: a configuration file, or its content, to use instead of the one next to the weights.
        sizes: settings from flags; they must agree with the configuration.
        trust: whether `flow.save` directories, which contain a pickle, may be read.
        allow_partial: whether to skip tensors that are missing or have a different shape.

    Raises:
        UserError: the checkpoint has an unknown format, is damaged, untrusted or not BERT, contains numbers that are
            not finite, or tensors are missing or have a different shape.
    """
    path = model_directory(local_directory(str(path)))
    given = config if isinstance(config, dict) else _settings(path, Path(config) if config else None)
    family = families.find(given)
    try:
        settings = families.read_settings(given, *family) if family else given
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    settings = {name: value for name, value in settings.items() if value is not None}
    for name, value in (sizes or {}).items():
        if settings.get(name, value) != value:
            raise UserError(f"--{name} {value} contradicts the configuration of {path}, which says {settings[name]}.")
    settings = {**settings, **(sizes or {})}
    try:
        check_is_bert(settings)
        source = detect(path) if source == "auto" else source
        stored, flat = _read_stored(path, source, trust)
        if family and source != "hf":
            raise UserError(
                f"the model is of type {family[0]!r}, which can only be read from safetensors and PyTorch files."
            )
        stored = families.read_tensors(stored, given, family[1]) if family else stored
        shape, state, report = from_scheme(stored, _SCHEMES.get(source, source), settings, flat=flat)
    except UserError as error:
        raise error if str(path) in str(error) else UserError(f"{path}: {error}") from None
    if not report.complete and not allow_partial:
        problems = report.mismatched + [f"{name} is missing" for name in report.missing]
        raise UserError(
            f"{path} does not fit its configuration: {problems[0]}"
            + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "")
            + ": pass the right configuration, or --allow_partial to skip such tensors."
        )
    _check_finite(path, state)
    return Checkpoint(path, source, shape, state, settings, report)


def detect(path: Path) -> str:
    """Detects the format of a checkpoint.

    Raises:
        UserError: it has none of the formats; the message lists the expected files.
    """
    if huggingface.find(path):
        return "hf"
    if oneflow_save.is_oneflow_save(path):
        return "oneflow"
    if lazy.is_lazy(path):
        return "lazy"
    if tensorflow.find(path):
        return "tf"
    if flax.find(path):
        return "flax"
    if onnx_file.find(path):
        return "onnx"
    if not path.exists():
        raise UserError(f"{path} does not exist: pass a model directory or a checkpoint file.")
    raise UserError(
        f"{path} is not a checkpoint: expected {', '.join(huggingface.FILES)} (Hugging Face), pickled_data "
        f"(flow.save), snapshot_done or */out (lazy OneFlow), *.ckpt.index (TensorFlow), {flax.FILE} or checkpoint_* "
        f"(Flax) and {' or '.join(onnx_file.FILES)} (ONNX)."
    )


def write_checkpoint(
    checkpoint: Checkpoint,
    directory: str | Path,
    target: str = "hf",
    *,
    vocab_file: str | Path | None = None,
    overwrite: bool = False,
    onnx: OnnxOptions = OnnxOptions(),  # noqa: B008 - frozen
) -> None:
    """Writes a checkpoint under a temporary name, reads it back, compares every bit, and renames it.

    Args:
        checkpoint: what to write.
        directory: must be missing or empty, unless `overwrite` is true and it contains only an earlier conversion.
        target: the format.
        vocab_file: a vocabulary to use instead of the one next to the input's weights.
        onnx: the settings of an ONNX graph. Quantized weights are not compared with the input.

    Raises:
        UserError: the directory is in use, the disk is full, the data read back differs, or the format cannot
            represent the model.
    """
    directory = Path(directory)
    if (checkpoint.config.is_variant or checkpoint.config.hidden_act != "gelu") and target in ("tf", "lazy"):
        raise UserError(f"{checkpoint.path} is a variant of BERT, which --to {target} does not support: use --to hf.")
    _check_output(checkpoint, directory, overwrite)
    tokenizer = _tokenizer(checkpoint, vocab_file)
    directory.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(array.nbytes for array in checkpoint.state.values())
    if shutil.disk_usage(directory.parent).free < needed:
        raise UserError(f"--output {directory} needs {needed / 1e6:.0f} MB, but the disk has less space: free some.")
    partial = directory.with_name(f".{directory.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        for name, content in tokenizer.items():  # first, because calibration reads them
            (partial / name).write_bytes(content)
        if target == "onnx":
            checkpoint = _write_onnx(checkpoint, partial, onnx)
        settings = checkpoint.config.to_huggingface(checkpoint.architecture)
        if target == "hf":
            checkpoint, settings = _write_huggingface(checkpoint, settings, partial)
        elif target != "onnx":
            _write_stored(checkpoint.state, partial, target)
        settings |= {name: checkpoint.settings[name] for name in _LABEL_SETTINGS if name in checkpoint.settings}
        if target == "onnx":
            settings["model_type"] = "bert"  # also for a variant: the graph defines the computation
        name = _CONFIG_FILES[0 if target in ("hf", "oneflow", "onnx") else 1]
        (partial / name).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        pooling = Pooling.find(checkpoint.directory) if target in ("hf", "onnx") else None
        for name, content in (pooling.files(checkpoint.config.hidden_size) if pooling else {}).items():
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_bytes(content)
        if target != "onnx" or onnx.precision == "fp32":
            _verify(checkpoint, partial, target)
        _publish(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_finite(path: Path, state: State) -> None:
    bad = [name for name, array in state.items() if not np.isfinite(array).all()]
    if bad:
        raise UserError(
            f"{path} has NaN or infinite numbers in {len(bad)} tensors (first: {bad[0]}): its training diverged. Use "
            "an earlier checkpoint."
        )


def _check_output(checkpoint: Checkpoint, directory: Path, overwrite: bool) -> None:
    """Raises UserError unless the output directory is empty, or may be overwritten without losing other files."""
    if directory.exists() and not directory.is_dir():
        raise UserError(f"--output {directory} is a file: use a directory.")
    held = sorted(directory.iterdir()) if directory.is_dir() else []
    if held and not overwrite:
        raise UserError(f"--output {directory} is not empty: use another one, or pass --overwrite_output_dir.")
    own, source = directory.resolve(), checkpoint.path.resolve()
    if held and (own == source or own in source.parents):
        raise UserError(f"--output {directory} contains the input, {checkpoint.path}: use another directory.")
    foreign = next(foreign_files(directory, _WRITTEN), None) if held else None
    if foreign:
        raise UserError(
            f"--output {directory} contains {foreign.relative_to(directory)}, which no conversion writes: move it, or "
            "use another directory."
        )


def _tokenizer(checkpoint: Checkpoint, vocab_file: str | Path | None) -> dict[str, bytes]:
    """The tokenizer's files, {name: content}: those next to the weights unchanged, missing ones generated from them."""
    files = {name: checkpoint.directory / name for name in (*TOKENIZER_FILES, *BYTE_LEVEL_FILES)}
    held = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
    named = vocab_file or checkpoint.vocab_file
    if named is None:
        warn(f"{checkpoint.path} has no vocabulary, so the output has none either: set one with --vocab_file.")
        return held
    try:
        vocabulary = read_vocabulary(named, settings_in=checkpoint.directory)
    except UserError as error:
        if vocab_file:
            raise
        warn(f"{error} The tokenizer's files are copied unchanged.")
        return held
    made = vocabulary.files(checkpoint.config.max_position_embeddings)
    return made if vocab_file else made | held


def _read_stored(path: Path, source: str, trust: bool) -> tuple[dict[str, np.ndarray], bool]:
    if source == "lazy":
        return lazy.read(path)
    if source == "tf":
        return tensorflow.read(path), False
    if source == "oneflow":
        return oneflow_save.read(path, trust=trust), False
    if source in ("flax", "onnx"):
        return (flax if source == "flax" else onnx_file).read(path), False
    return huggingface.read(path), False


def _write_stored(state: State, directory: Path, target: str) -> None:
    writers = {"hf": huggingface.write, "oneflow": oneflow_save.write, "lazy": lazy.write, "tf": tensorflow.write}
    writers[target](to_scheme(state, target), directory)


def _write_huggingface(
    checkpoint: Checkpoint, settings: dict[str, Any], directory: Path
) -> tuple[Checkpoint, dict[str, Any]]:
    """Writes the weights as the model type that describes them; returns what was written and its config.json."""
    preferred = checkpoint.settings.get("source_type")
    found = families.write(checkpoint.config, checkpoint.state, checkpoint.architecture, preferred)
    if found is None:
        _write_stored(checkpoint.state, directory, "hf")
        return checkpoint, settings
    own, stored, state = found
    kept = (*_LABEL_SETTINGS, "long_text", "max_seq_length", "torch_dtype")
    own |= {name: settings[name] for name in kept if name in settings}
    own |= {name: checkpoint.settings[name] for name in families.TOKEN_SETTINGS if name in checkpoint.settings}
    if any(row.name in checkpoint.state and row.name not in state for row in rows(0) if row.group == NEXT_SENTENCE):
        warn(f"models of type {own['model_type']} have no next-sentence head, so it is not written.")
    huggingface.write(stored, directory)
    return replace(checkpoint, state=state), own


def _write_onnx(checkpoint: Checkpoint, directory: Path, options: OnnxOptions) -> Checkpoint:
    """Writes the graph of one head; returns the checkpoint with only the parameters that the graph uses."""
    used = onnx_export.write(checkpoint.state, checkpoint.config, checkpoint.architecture, directory, options)
    return replace(checkpoint, state=used)


def _verify(checkpoint: Checkpoint, written: Path, target: str) -> None:
    back = read_checkpoint(written, target, trust=True, allow_partial=True)
    same = back.config == checkpoint.config and back.state.keys() == checkpoint.state.keys()
    # Bits and not values, so that -0.0 differs from 0.0.
    if not same or any((back.state[n].view(np.int32) != a.view(np.int32)).any() for n, a in checkpoint.state.items()):
        raise UserError(f"the data written to {written.parent} differs from the input when read back: check the disk.")


def _publish(partial: Path, directory: Path) -> None:
    """Syncs every file, then replaces the directory; a link is replaced, not followed."""
    for file in sorted(path for path in partial.rglob("*") if path.is_file()):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    old = directory.with_name(f".{directory.name}.old-{os.getpid()}")
    if directory.is_symlink():
        directory.unlink()
    elif directory.exists():
        directory.rename(old)
    partial.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def _directory(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _settings(path: Path, file: Path | None) -> dict[str, Any]:
    """The content of the configuration file; {} without one."""
    if file and not file.is_file():
        raise UserError(f"--config {file} does not exist.")
    files = [file] if file else [_directory(path) / name for name in _CONFIG_FILES]
    return next((read_settings(candidate) for candidate in files if candidate.is_file()), {})
