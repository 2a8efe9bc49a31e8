"""Reads BERT checkpoints of every format into numpy arrays, and writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.model import BertConfig
from conversion.checkpoint import FORMATS, TARGETS, Checkpoint, detect, read_checkpoint, write_checkpoint
from conversion.names import State
from conversion.onnx_export import OnnxOptions

__all__ = [
    "FORMATS",
    "TARGETS",
    "Checkpoint",
    "OnnxOptions",
    "detect",
    "load_any",
    "read_checkpoint",
    "write_checkpoint",
]


def load_any(path: str | Path, **options: Any) -> tuple[BertConfig, State]:
    """Reads a checkpoint's configuration and parameters (Hugging Face's names); options as in `read_checkpoint`."""
    checkpoint = read_checkpoint(path, **options)
    return checkpoint.config, checkpoint.state
