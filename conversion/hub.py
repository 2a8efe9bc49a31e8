"""Models by their name on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from utils.errors import UserError

# Google's models go by their bare names; others say hf://, for runs/first would be a path as well as a name.
_NAME = re.compile(r"hf://([\w.-]+(?:/[\w.-]+)?)|((?:google-bert/)?bert-[\w.-]+)")
_FILES = ("config.json", "model.safetensors", "pytorch_model.bin", "vocab.txt", "tokenizer_config.json")


def local_directory(name: str) -> Path:
    """The directory that `name` means: a path, or a hub model (`bert-base-uncased`, `hf://owner/name`), fetched once.

    Raises:
        UserError: there is no such path, and the hub cannot be reached or has no such model.
    """
    path = Path(name)
    match = _NAME.fullmatch(name)
    if path.exists() or not match:
        return path
    from huggingface_hub import snapshot_download  # takes a while, and most models are paths

    try:
        return Path(snapshot_download(match[1] or match[2], allow_patterns=list(_FILES), etag_timeout=10))
    except Exception as error:  # the hub's own kinds differ from version to version
        reason = str(error).split("\n")[0]
        raise UserError(f"{name} is neither a path nor a model that the hub gives ({reason}).") from None
