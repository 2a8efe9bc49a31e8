"""Measures fill-mask inference in both modes: `python -m benchmarks.inference [--model_path DIR]`.

Texts of mixed lengths go through `Model.stream`, then some of them one at a time. Without --model_path, a randomly
initialized model is measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from configs.model import PRESETS, BertConfig
from conversion.tokenizer_files import SPECIAL_TOKENS, read_vocabulary
from data.tokenization import load_vocab
from inference import Model, load
from inference.runner import Mode
from modeling import BertForPreTraining

LENGTHS = (3, 5, 8, 12, 20, 35, 60, 110)  # words


def main() -> None:
    """Print one line of JSON per mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_path", type=Path, help="model directory or checkpoint with a masked-LM head")
    parser.add_argument(
        "--model_size", default="tiny", choices=sorted(PRESETS), help="size of the random model (default: tiny)"
    )
    parser.add_argument("--rows", type=int, default=10_000, help="number of texts (default: 10000)")
    parser.add_argument(
        "--single_rows", type=int, default=300, help="number of texts that also run one at a time (default: 300)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = arguments.model_path or random_model(Path(directory), arguments.model_size)
        words = [word for word in load_vocab(path) if word not in SPECIAL_TOKENS and not word.startswith("##")]
        rows = texts(words, arguments.rows)
        for mode in ("eager", "graph"):
            print(json.dumps(measure(path, "graph" if mode == "graph" else "eager", rows, arguments.single_rows)))


def random_model(directory: Path, size: str) -> Path:
    """Write a randomly initialized model with a vocabulary of made-up words, as large as Google's."""
    layers, hidden = PRESETS[size]
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        num_attention_heads=hidden // 64,
        intermediate_size=4 * hidden,
    )
    vocab = [*SPECIAL_TOKENS, *(f"w{i}" for i in range(config.vocab_size - len(SPECIAL_TOKENS)))]
    (directory / "words.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    tokenizer = read_vocabulary(directory / "words.txt").files(config.max_position_embeddings)
    BertForPreTraining(config).save_pretrained(directory, tokenizer=tokenizer)
    return directory


def texts(words: list[str], count: int) -> list[str]:
    """Texts of random words with one [MASK] each."""
    generator = np.random.default_rng(0)
    made = []
    for length in generator.choice(LENGTHS, count):
        text = generator.choice(words, length).tolist()
        text[generator.integers(length)] = "[MASK]"
        made.append(" ".join(text))
    return made


def measure(path: Path, mode: Mode, rows: list[str], single_rows: int) -> dict[str, float | str]:
    """Texts per second, streamed (including compilation) and one at a time (without), and peak memory."""
    model: Model = load(path, mode=mode)
    started = time.perf_counter()
    for number, _ in enumerate(model.stream("fill-mask", ({"text": text} for text in rows))):
        if number == 0:
            first = _memory()
    streamed = len(rows) / (time.perf_counter() - started)
    memory, graphs = _memory(), model.num_graphs
    for text in rows[:single_rows]:
        model.fill_mask(text)
    started = time.perf_counter()
    for text in rows[:single_rows]:
        model.fill_mask(text)
    single = single_rows / (time.perf_counter() - started)
    return {
        "mode": mode,
        "rows per second, streamed": round(streamed, 1),
        "rows per second, one at a time": round(single, 1),
        "MB after the first answers": first,
        "MB at the end": memory,
        "compiled shapes": graphs,
    }


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
