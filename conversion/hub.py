"""Downloads models by their name on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from conversion import flax, onnx_export, onnx_file
from conversion.model_directory import SETTINGS_FILES
from utils.errors import UserError

# Google's models have bare names; others need hf://, because runs/first could be a path or a model name.
_NAME = re.compile(r"hf://([\w.-]+(?:/[\w.-]+)?)|((?:google-bert/)?bert-[\w.-]+)")
# The same weights in several formats, of which the first that a model has is downloaded.
_WEIGHTS = (
    ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json"),
    (flax.FILE,),
    tuple(
        str(Path(file).with_name(name))
        for file in onnx_file.FILES
        for name in (onnx_export.FILE, onnx_export.DATA_FILE)
    ),
)


def local_directory(name: str) -> Path:
    """The directory of a model: `name` itself if it is a path, else the cached download of a hub model.

    Args:
        name: a path, or a hub model (`bert-base-uncased`, `hf://owner/name`).

    Raises:
        UserError: there is no such path, and the hub cannot be reached or has no such model.
    """
    path = Path(name)
    match = _NAME.fullmatch(name)
    if path.exists() or not match:
        return path
    from huggingface_hub import snapshot_download  # slow to import, and most models are paths

    try:
        for weights in _WEIGHTS:
            patterns = [*SETTINGS_FILES, *weights]
            directory = Path(snapshot_download(match[1] or match[2], allow_patterns=patterns, etag_timeout=10))
            if any(any(directory.glob(pattern)) for pattern in weights):
                break
        return directory
    except Exception as error:  # the hub's exceptions differ between versions
        reason = str(error).split("\n")[0]
        raise UserError(f"{name} is not a path, and could not be downloaded from the hub ({reason}).") from None
