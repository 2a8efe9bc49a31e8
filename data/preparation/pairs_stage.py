"""The second stage of `prepare_data.py pretraining`: turns the documents of each piece into unmasked rows.

A task draws the rows of one piece for some of its `--dupe_factor` repetitions. Its file contains the rows in random
order, grouped by bin of `--bin_size`.
"""

import os
from pathlib import Path

import numpy as np

from configs.prepare import PretrainingDataConfig
from data.preparation.instances import Cutting, draw_rows, special_tokens
from data.preparation.pieces import Result, run_pieces
from data.preparation.random_streams import ORDER, PAIRS, generator
from data.preparation.token_store import Corpus, TokenStore

ROWS_AT_ONCE = 1024
EXTRA_COLUMNS = 3  # of a row on disk, after its ids: length of A, length of B, label


def draw_pairs(config: PretrainingDataConfig, work: Path, corpus: Corpus, vocab: dict[str, int]) -> list[list[int]]:
    """Draw the rows of all pieces; return the number of rows per task and bin, [tasks][bins]."""
    example = config.example
    cutting = Cutting(
        objective=example.objective,
        seq_length=example.max_seq_length,
        short_seq_prob=example.short_seq_prob,
        cls_id=vocab["[CLS]"],
        sep_id=vocab["[SEP]"],
        packing=example.packing,
        swap=example.masking == "static",
    )
    tasks = _tasks(corpus, config)
    drawn = run_pieces(
        work, "pairs", _draw_piece, [(number, repetitions, corpus, config, cutting) for number, repetitions in tasks],
        flags=config.work, sizes=[corpus.tokens[number] * len(repetitions) for number, repetitions in tasks],
        unit="tokens",
    )  # fmt: skip
    return [result["rows"] for result in drawn]


def _tasks(corpus: Corpus, config: PretrainingDataConfig) -> list[tuple[int, range]]:
    """(piece, repetitions) of each task; the rows of a task take about an eighth of the memory."""
    dupe_factor = config.example.dupe_factor
    tasks = []
    for number, tokens in enumerate(corpus.tokens):
        at_once = max(1, (config.work.memory_mb << 17) // max(1, 2 * tokens * corpus.token_bytes))
        tasks += [(number, range(first, min(first + at_once, dupe_factor))) for first in range(0, dupe_factor, at_once)]
    return tasks


def _draw_piece(
    work: Path, index: int, number: int, repetitions: range, corpus: Corpus, config: PretrainingDataConfig,
    cutting: Cutting,
) -> Result:  # fmt: skip
    seed = config.example.random_seed
    rng = generator(seed, PAIRS, repetitions.start, number)
    rows = draw_rows(rng, TokenStore(work, corpus), number, cutting, times=len(repetitions))
    table = np.concatenate(
        [rows.input_ids, rows.lengths, rows.labels[:, None]], 1, dtype=rows.input_ids.dtype, casting="unsafe"
    )
    order = generator(seed, ORDER, index).permutation(len(table))
    lengths = rows.lengths.sum(1, dtype=np.int64) + special_tokens(cutting.objective)
    bins = (lengths - 1) // (config.bin_size or cutting.seq_length)
    order = order[np.argsort(bins[order], kind="stable")]
    with (work / row_file(index)).open("wb") as file:
        for start in range(0, len(table), ROWS_AT_ONCE):
            file.write(table[order[start : start + ROWS_AT_ONCE]].tobytes())
        file.flush()
        os.fsync(file.fileno())
    return {"rows": np.bincount(bins, minlength=config.bins).tolist()}


def row_file(task: int) -> str:
    """The name of a task's file."""
    return f"rows-{task:06d}"
