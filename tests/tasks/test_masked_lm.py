"""Loss terms, dynamic masks, growing batches and clipping, in whole small runs of both modes."""

import json

import numpy as np
import pytest

from configs.cli import parse
from configs.pretraining import PretrainingConfig
from data.ofrecord import open_records
from data.records.dataset_json import write_dataset_json
from data.records.shards import ShardWriter
from tasks.pretraining import pretrain
from training.journal import read_rows
from utils.errors import UserError

SMALL = (
    "--num_hidden_layers 1 --num_attention_heads 3 --hidden_size_per_head 5 --with-cuda False --lr 1e-2 --seed 5 "
    "--loss_print_every_n_iters 1 --train-batch-size 4 --max_steps 6"
).split()


def train(mode, data, output, words=""):
    given = [*SMALL, "--ofrecord_path", str(data), "--output_dir", str(output), *words.split()]
    pretrain(parse(PretrainingConfig, given), mode)
    return [row for row in read_rows(output / "metrics.jsonl") if "total_loss" in row]


def losses(rows):
    return [row["total_loss"] for row in rows]


@pytest.fixture
def sentence_order(records_dir, tmp_path):
    """The same records without masks, as pairs in their original order."""
    source = open_records(records_dir)
    kept = {n: kind for n, kind in source.schema.items() if not n.startswith("masked_lm_")}
    directory = tmp_path / "sentence_order"
    directory.mkdir()
    with ShardWriter(directory / "part-00000", kept) as writer:
        batch = source.read(np.arange(len(source)))
        batch["next_sentence_labels"][:] = 0
        writer.write_batch({name: batch[name] for name in kept})
    (directory / "vocab.txt").write_bytes((records_dir / "vocab.txt").read_bytes())
    metadata = {**source.metadata, "objective": "sop", "masking": "dynamic"}
    metadata = {n: v for n, v in metadata.items() if n not in ("schema", "shards", "records", "format_version")}
    write_dataset_json(directory, schema=kept, shards=[writer.shard], **metadata)
    return directory


@pytest.mark.parametrize(
    "words",
    [
        "--skip_nsp --hidden_dropout_prob 0 --attention_probs_dropout_prob 0",
        "--skip_mlm --hidden_dropout_prob 0 --attention_probs_dropout_prob 0",
        "--grad_acc_steps 3 --grad_acc_ramp_steps 5 --hidden_dropout_prob 0 --attention_probs_dropout_prob 0",
        "--clip value --clip_value 1e-3 --hidden_dropout_prob 0 --attention_probs_dropout_prob 0",
    ],
)
def test_both_modes_have_the_same_losses(records_dir, tmp_path, words):
    eager = train("eager", records_dir, tmp_path / "eager", words)
    graph = train("graph", records_dir, tmp_path / "graph", words)
    np.testing.assert_allclose(losses(eager), losses(graph), rtol=1e-5)
    assert ("mlm_loss" in eager[0], "nsp_loss" in eager[0]) == ("skip_mlm" not in words, "skip_nsp" not in words)


def test_sentence_order_with_dynamic_masks_resumes_exactly(sentence_order, tmp_path):
    words = "--objective sop --max_predictions_per_seq 2 --model_save_every_n_iter 3"
    whole = train("eager", sentence_order, tmp_path / "whole", words)
    assert len({row["sop_loss"] for row in whole}) == 6
    train("eager", sentence_order, tmp_path / "cut", words + " --max_steps 3 --lr_schedule constant")
    (tmp_path / "cut" / "metrics.jsonl").rename(tmp_path / "first.jsonl")
    constant = train("eager", sentence_order, tmp_path / "constant", words + " --lr_schedule constant")
    rest = train("eager", sentence_order, tmp_path / "cut", words + " --lr_schedule constant --resume")
    assert losses(rest) == losses(constant)[3:]


def test_growing_batches_resume_exactly(records_dir, tmp_path):
    words = "--grad_acc_steps 3 --grad_acc_ramp_steps 5 --lr_schedule constant --warmup_steps 1"
    whole = train("eager", records_dir, tmp_path / "whole", words)
    train("eager", records_dir, tmp_path / "cut", words + " --max_steps 3")
    both = train("eager", records_dir, tmp_path / "cut", words + " --resume")
    assert losses(both) == losses(whole)


def test_load_from_checkpoint_continues_or_starts_over(records_dir, tmp_path):
    words = "--lr_schedule constant --warmup_steps 1"
    whole = train("eager", records_dir, tmp_path / "whole", words)
    train("eager", records_dir, tmp_path / "first", words + " --max_steps 4 --load_from scratch")
    load = f"{words} --load_from checkpoint --checkpoint_path {tmp_path / 'first'}"
    went_on = train("eager", records_dir, tmp_path / "on", load)
    assert [row["step"] for row in went_on] == [4, 5]
    assert losses(went_on) == losses(whole)[4:]
    anew = train("eager", records_dir, tmp_path / "anew", load + " --load_optimizer_state false --max_steps 2")
    assert [row["step"] for row in anew] == [0, 1]
    assert (tmp_path / "anew/checkpoint-2/model.safetensors").exists()
    assert json.loads((tmp_path / "first/run.json").read_text())["max_steps"] == 4


def test_evaluation_without_training(records_dir, tmp_path):
    train("eager", records_dir, tmp_path / "run", "--eval_at_start --val_fraction 0.3 --eval_only_mlm")
    rows = [row for row in read_rows(tmp_path / "run/metrics.jsonl") if "eval_mlm_loss" in row]
    assert [row["step"] for row in rows] == [0, 6] and "eval_nsp_loss" not in rows[0]
    assert "eval_perplexity = " in (tmp_path / "run/eval_results.txt").read_text()
    words = ["--do_train", "False", "--init_checkpoint", str(tmp_path / "run"), "--val_ofrecord_path", str(records_dir)]
    pretrain(
        parse(PretrainingConfig, [*words, "--max_val_samples", "9", "--output_dir", str(tmp_path / "out")]), "eager"
    )
    assert "eval_nsp_loss" in (tmp_path / "out/eval_results.txt").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--objective none", "--skip_nsp"),
        ("--objective sop", "--objective sop disagrees"),
        ("--grad_acc_steps 2 --clip value", "--clip value"),
        ("--load_from checkpoint --checkpoint_path nowhere", "nowhere"),
    ],
)
def test_contradictions(records_dir, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        train("graph", records_dir, tmp_path / "out", words)
