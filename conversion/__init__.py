"""BERT checkpoints of every format (TensorFlow, Hugging Face, lazy OneFlow, flow.save), as numpy arrays and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.model import BertConfig
from conversion.checkpoint import FORMATS, Checkpoint, detect, read_checkpoint, write_checkpoint
from conversion.names import State

__all__ = ["FORMATS", "Checkpoint", "detect", "load_any", "read_checkpoint", "write_checkpoint"]


def load_any(path: str | Path, **options: Any) -> tuple[BertConfig, State]:
    """Reads a checkpoint's configuration and parameters (Hugging Face's names); options as in `read_checkpoint`."""
    checkpoint = read_checkpoint(path, **options)
    return checkpoint.config, checkpoint.state
