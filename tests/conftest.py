"""Small records and models for all tests."""

import gc
import signal

import numpy as np
import pytest

import kernels
import modeling  # noqa: F401 - first, because a test that imports the framework by itself would miss its settings
from configs.model import BertConfig
from data.records.dataset_json import write_dataset_json
from data.records.features import pretraining_schema
from data.records.shards import ShardWriter

# `nohup` and shells that start `make test` in the background ignore these, and the runs that tests start inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

# Odd sizes that differ from each other, so that a swapped axis fails.
VOCAB_SIZE, SEQ_LENGTH, PREDICTIONS = 37, 11, 3


@pytest.fixture
def tiny_config():
    """A model of odd sizes, without dropout."""
    return BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=15,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=19,
        max_position_embeddings=13,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def pretraining_arrays(count, seed, seq_length=SEQ_LENGTH):
    """{feature: [count, L]} of random pretraining records with padding and both segments."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, seq_length + 1, count)
    inside = np.arange(seq_length) < lengths[:, None]
    positions = np.sort(np.stack([rng.choice(5, PREDICTIONS, replace=False) for _ in range(count)]) + 1, axis=1)
    weights = np.arange(PREDICTIONS) < rng.integers(1, PREDICTIONS + 1, (count, 1))
    ids = rng.integers(5, VOCAB_SIZE, (count, seq_length)) * inside
    return {
        "input_ids": ids.astype(np.int32),
        "input_mask": inside.astype(np.int32),
        "segment_ids": ((np.arange(seq_length) > 3) & inside).astype(np.int32),
        "masked_lm_positions": (positions * weights).astype(np.int32),
        "masked_lm_ids": (rng.integers(5, VOCAB_SIZE, (count, PREDICTIONS)) * weights).astype(np.int32),
        "masked_lm_weights": weights.astype(np.float32),
        "next_sentence_labels": rng.integers(0, 2, (count, 1)).astype(np.int32),
    }


@pytest.fixture
def pretraining_batch():
    """A function (count, seed) that returns a batch in the form of the loader's."""

    def make(count, seed=0):
        return {**pretraining_arrays(count, seed), "example_weights": np.ones(count, np.float32)}

    return make


@pytest.fixture(scope="session", params=["longest", "none"])
def less_padding(request):
    """A value of --padding that computes less padding than max_length."""
    if request.param == "none" and not kernels.is_loaded():
        pytest.skip("--padding none needs this project's kernels")
    return request.param


@pytest.fixture
def records_dir(tmp_path):
    """A directory with three shards of 47 records in total, and a vocabulary."""
    return write_records(tmp_path / "records")


@pytest.fixture(scope="module")
def shared_records_dir(tmp_path_factory):
    """The same records for all tests of a module, which must not change them."""
    return write_records(tmp_path_factory.mktemp("shared") / "records")


def write_records(directory, seq_length=SEQ_LENGTH):
    directory.mkdir()
    schema, shards = pretraining_schema(seq_length, PREDICTIONS), []
    for number, count in enumerate((19, 17, 11)):
        arrays = pretraining_arrays(count, number, seq_length)
        with ShardWriter(directory / f"part-{number:05}", schema) as writer:
            for row in range(count):
                writer.write({name: array[row] for name, array in arrays.items()})
        shards.append(writer.shard)
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(5, VOCAB_SIZE))]
    (directory / "vocab.txt").write_text("\n".join(vocab) + "\n")
    lengths = {"seq_length": seq_length, "max_predictions_per_seq": PREDICTIONS}
    write_dataset_json(directory, schema=schema, shards=shards, vocab_size=VOCAB_SIZE, do_lower_case=True, **lengths)
    return directory


@pytest.fixture(autouse=True)
def _no_job_outlives_its_test():
    """Collects compiled jobs now: OneFlow has crashed when Python collected one while another was running."""
    yield
    gc.collect()
