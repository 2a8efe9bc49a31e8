"""Training on JSON lines, on several sets, and on a stream of token ids."""

import json
import shutil

import numpy as np
import pytest

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from data.records.features import UNMASKED, schema_of
from data.records.json_lines import encode_json_lines
from data.sources import open_source
from modeling.pretrained import WEIGHTS_FILE, read_weights, write_weights
from tasks.pretraining import pretrain
from tests.conftest import SEQ_LENGTH, write_records
from training.journal import read_rows
from utils.errors import UserError

SMALL = (
    "--num_hidden_layers 1 --num_attention_heads 3 --hidden_size_per_head 5 --with-cuda False --lr 1e-2 --seed 5 "
    "--loss_print_every_n_iters 1 --train-batch-size 4 --max_steps 6 --num_threads 1"
).split()


def train(output, *words):
    pretrain(parse(PretrainingConfig, [*SMALL, "--output_dir", str(output), *map(str, words)]), "eager")
    return [row["total_loss"] for row in read_rows(output / "metrics.jsonl") if "total_loss" in row]


@pytest.fixture
def as_lines(records_dir, tmp_path):
    """The test records as JSON lines."""
    source = open_source(records_dir)
    path = tmp_path / "train_11.json"
    path.write_bytes(encode_json_lines(source.read(np.arange(len(source))), source.schema)[0])
    return path


def test_json_lines_train_as_records_do(records_dir, as_lines, tmp_path):
    vocab = ("--vocab_file", records_dir / "vocab.txt")
    expected = train(
        tmp_path / "of_records", "--ofrecord_path", records_dir, *vocab, "--val_ofrecord_path", records_dir
    )
    found = train(tmp_path / "lines", "--train_file", as_lines, *vocab, "--validation_file", as_lines)
    assert found == expected
    results = [(tmp_path / name / "eval_results.txt").read_text() for name in ("of_records", "lines")]
    assert results[0] == results[1]


def test_sets_are_mixed(records_dir, as_lines, tmp_path):
    both = train(tmp_path / "both", "--ofrecord_path", records_dir / "part-00001", as_lines, "--epochs", 1)
    assert len(both) == 6 and np.isfinite(both).all()
    assert json.loads((tmp_path / "both/run.json").read_text())["ofrecord_path"][1] == str(as_lines)
    # The same records in the same order, as three single shards.
    shards = [records_dir / f"part-0000{number}" for number in range(3)]
    apart = train(tmp_path / "apart", "--ofrecord_path", *shards)
    assert apart == train(tmp_path / "whole", "--ofrecord_path", records_dir)
    assert (tmp_path / "apart/checkpoint-6/vocab.txt").exists()


@pytest.fixture
def stream(tmp_path):
    """Two streams of token ids."""
    directory = write_records(tmp_path / "stream")
    content = json.loads((directory / "dataset.json").read_text())
    for file in directory.glob("part-*"):
        file.unlink()
    (directory / "offsets.u64").unlink()
    rng, shards = np.random.default_rng(1), []
    for number in range(2):
        file = directory / f"part-0000{number}.npy"
        np.save(file, rng.integers(5, 37, 101, dtype=np.uint16))
        shards.append({"file": file.name, "records": 11, "bytes": file.stat().st_size, "crc32": 0})
    content |= {
        "format": "tokens",
        "shards": shards,
        "records": sum(shard["records"] for shard in shards),
        "schema": schema_of(UNMASKED, SEQ_LENGTH),
        "cls_id": 2,
        "sep_id": 3,
    }
    content |= {"objective": "none", "masking": "dynamic", "max_predictions_per_seq": 2}
    (directory / "dataset.json").write_text(json.dumps(content))
    return directory


def test_a_token_stream_with_dynamic_masks_resumes_exactly(stream, tmp_path):
    words = ("--ofrecord_path", stream, "--seq_length", 9, "--val_fraction", 0.5, "--lr_schedule", "constant")
    whole = train(tmp_path / "whole", *words, "--epochs", 3)
    assert "eval_mlm_loss" in (tmp_path / "whole/eval_results.txt").read_text()
    train(tmp_path / "cut", *words, "--max_steps", 3)
    assert train(tmp_path / "cut", *words, "--resume") == whole


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--train_data_part", 2), "--train_data_part"),
        (("--seq_length", 7), r"--seq_length 7 is too small: .*train_11\.json has a record with 11 tokens"),
        (("--objective", "none"), "objective none, but .*train_11.* has labels for nsp"),
    ],
)
def test_contradictions(records_dir, as_lines, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        train(tmp_path / "out", "--ofrecord_path", records_dir, as_lines, *words)


def test_negative_weights_are_refused(records_dir, tmp_path):
    directory = shutil.copytree(records_dir, tmp_path / "negative")
    one, minus_one = (np.array(value, "<f4").tobytes() for value in (1, -1))
    for shard in directory.glob("part-*"):
        shard.write_bytes(shard.read_bytes().replace(one, minus_one))
    with pytest.raises(UserError, match=r"masked_lm_weights has the value -1\.0, but must be at least 0 and below 2"):
        train(tmp_path / "out", "--ofrecord_path", directory)


def test_validation_may_be_longer_than_training(records_dir, as_lines, tmp_path):
    lines = as_lines.read_text().splitlines(keepends=True)
    by_length = sorted(lines, key=lambda line: len(json.loads(line)["input_ids"]))
    (tmp_path / "short.json").write_text("".join(by_length[:20]))
    vocab = ("--vocab_file", records_dir / "vocab.txt")
    train(tmp_path / "out", "--train_file", tmp_path / "short.json", *vocab, "--validation_file", as_lines)
    assert "eval_mlm_loss" in (tmp_path / "out/eval_results.txt").read_text()
    train(tmp_path / "mixed", "--train_file", tmp_path / "short.json", *vocab, "--val_ofrecord_path", records_dir)


def test_a_directory_of_json_files(records_dir, as_lines, tmp_path):
    directory = tmp_path / "lines"
    directory.mkdir()
    (directory / "a.json").write_bytes(as_lines.read_bytes())
    assert len(open_source(directory)) == len(open_source(as_lines))


def test_a_run_names_a_vocabulary_which_outlives_the_pruned_checkpoint(records_dir, as_lines, tmp_path):
    first = tmp_path / "first"
    train(first, "--ofrecord_path", records_dir)
    train(tmp_path / "named", "--train_file", as_lines, "--tokenizer", first)
    assert (tmp_path / "named/checkpoint-6/vocab.txt").read_bytes() == (records_dir / "vocab.txt").read_bytes()
    words = ("--train_file", as_lines, "--model_save_every_n_iter", 2, "--keep_last", 1)
    out = tmp_path / "out"
    train(out, *words, "--init_checkpoint", first / "checkpoint-6")
    train(out, *words, "--init_checkpoint", first / "checkpoint-6", "--resume", "--max_steps", 12)
    assert [path.name for path in out.glob("checkpoint-*")] == ["checkpoint-12"]
    assert (out / "checkpoint-12/vocab.txt").exists()


def test_masked_lm_evaluation_needs_no_other_head(records_dir, as_lines, tmp_path):
    train(tmp_path / "out", "--ofrecord_path", records_dir)
    model = tmp_path / "model"
    shutil.copytree(tmp_path / "out/checkpoint-6", model)
    weights = read_weights(model / WEIGHTS_FILE)
    kept = {n: a for n, a in weights.items() if not n.startswith(("bert.pooler.", "cls.seq_relationship."))}
    assert len(kept) < len(weights)
    write_weights(model / WEIGHTS_FILE, kept)
    words = ("--do_train", "False", "--init_checkpoint", model, "--validation_file", as_lines)
    with pytest.raises(UserError, match=r"has no (bert\.pooler\.dense|cls\.seq_relationship), so it was not trained"):
        train(tmp_path / "eval", *words)
    assert train(tmp_path / "eval", *words, "--eval_only_mlm") == []
    assert "perplexity" in (tmp_path / "eval/eval_results.txt").read_text()


def test_nothing_left_to_train_is_an_error(records_dir, tmp_path):
    train(tmp_path / "out", "--ofrecord_path", records_dir)
    words = ("--load_from", "checkpoint", "--checkpoint_path", tmp_path / "out")
    with pytest.raises(UserError, match="nothing to train"):
        train(tmp_path / "next", "--ofrecord_path", records_dir, *words)


def test_rows_have_the_norm_of_the_weights(records_dir, tmp_path):
    train(tmp_path / "out", "--ofrecord_path", records_dir)
    *_, last = (row for row in read_rows(tmp_path / "out/metrics.jsonl") if "total_loss" in row)
    weights = read_weights(tmp_path / "out/checkpoint-6" / WEIGHTS_FILE)
    expected = np.sqrt(sum((array.astype(np.float64) ** 2).sum() for array in weights.values()))
    assert abs(last["weight_norm"] / expected - 1) < 1e-6
