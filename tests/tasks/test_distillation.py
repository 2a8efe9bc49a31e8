"""Pretraining and fine-tuning with a teacher: both modes, resume, padding, and teachers that do not fit."""

import shutil

import pytest

from configs.distillation import DistillationFlags
from modeling.pretrained import read_weights
from tests.training.whole_runs import removed_by_overwriting, train, training_losses
from training.journal import read_rows
from utils.errors import UserError

DISTILL = (
    "--num_hidden_layers 1 --distill_hidden_weight 1.5 --distill_attention_weight 2.5 --distill_weight 0.7 "
    "--max_steps 4 --model_save_every_n_iter 2 --val_fraction 0.3 --teacher"
).split()
TERMS = {"label_loss": 0.3, "distill_loss": 0.7, "distill_hidden_loss": 1.5, "distill_attention_loss": 2.5}


@pytest.fixture(scope="module")
def teacher(shared_records_dir, tmp_path_factory):
    """A wider and deeper model than the students."""
    directory = tmp_path_factory.mktemp("teacher")
    train(
        "eager", shared_records_dir, directory, *"--num_hidden_layers 2 --hidden_size_per_head 7 --max_steps 1".split()
    )
    return directory


@pytest.fixture(scope="module", params=["eager", "graph"])
def run(request, teacher, shared_records_dir, tmp_path_factory):
    """The mode, and the directory of its run."""
    directory = tmp_path_factory.mktemp(request.param)
    train(request.param, shared_records_dir, directory, *DISTILL, str(teacher))
    return request.param, directory


def test_a_resumed_run_repeats_every_digit(run, teacher, shared_records_dir, tmp_path):
    mode, whole = run
    shutil.copytree(whole / "checkpoint-2", tmp_path / "checkpoint-2")
    losses = train(mode, shared_records_dir, tmp_path, *DISTILL, str(teacher), "--resume")
    assert losses == {step: loss for step, loss in training_losses(whole).items() if step >= 2}
    for name in ("model.safetensors", "training_only.safetensors", "training_state/optimizer.safetensors"):
        own, resumed = (read_weights(each / "checkpoint-4" / name) for each in (whole, tmp_path))
        assert own and all((array == resumed[key]).all() for key, array in own.items())


@pytest.mark.parametrize("run", ["graph"], indirect=True)
def test_the_other_mode_continues_with_the_same_losses(run, teacher, shared_records_dir, tmp_path):
    _, whole = run
    shutil.copytree(whole / "checkpoint-2", tmp_path / "checkpoint-2")
    losses = train("eager", shared_records_dir, tmp_path, *DISTILL, str(teacher), "--resume")
    expected = {step: loss for step, loss in training_losses(whole).items() if step >= 2}
    assert losses == pytest.approx(expected, rel=1e-4)


def test_the_total_is_the_weighted_sum_and_evaluation_does_not_change(run, teacher):
    *rows, evaluation = read_rows(run[1] / "metrics.jsonl")
    for row in rows:
        total = sum(row[name] * weight for name, weight in TERMS.items())
        assert row["total_loss"] == pytest.approx(total, rel=1e-5)
        assert row["label_loss"] == pytest.approx(row["mlm_loss"] + row["nsp_loss"], rel=1e-5)
    assert evaluation["eval_total_loss"] == pytest.approx(evaluation["eval_mlm_loss"] + evaluation["eval_nsp_loss"])
    assert removed_by_overwriting(run[1]) == {path.name for path in run[1].iterdir()}
    stored = read_weights(run[1] / "checkpoint-4/model.safetensors")
    assert not [name for name in stored if name.startswith(("teacher.", "hidden_projection."))]
    state = read_weights(run[1] / "checkpoint-4/training_state/optimizer.safetensors")
    assert "hidden_projection.weight.m" in state and not [name for name in state if name.startswith("teacher.")]


def test_less_padding_and_accumulation_give_the_same_losses(teacher, less_padding, shared_records_dir, tmp_path):
    words = [*DISTILL, str(teacher), "--hidden_dropout_prob", "0", "--attention_probs_dropout_prob", "0"]
    words += ["--max_steps", "2", "--padding", less_padding]
    losses = [
        train("eager", shared_records_dir, tmp_path / rows, *words, "--train-batch-size", rows, "--grad-acc-steps", n)
        for rows, n in (("6", "1"), ("2", "3"))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--teacher_layers 0 1 2",
            "--teacher_layers has 3 layers, but the model has 2: name one for each of these.",
        ),
        (
            "--teacher_layers 0 2",
            "--teacher_layers 2 is not a layer of the teacher, which has 0 to 1: name one of these.",
        ),
        ("--objective rtd", "--teacher is not available with --objective rtd: use --objective none."),
        ("--distill_attention_weight 1 --activation_checkpointing", "discards the inputs of attention: omit one"),
    ],
)
def test_what_does_not_fit(words, message, teacher, shared_records_dir, tmp_path):
    with pytest.raises(UserError) as raised:
        train("eager", shared_records_dir, tmp_path / "out", "--teacher", str(teacher), *words.split())
    assert message in str(raised.value)


def test_a_teacher_with_another_vocabulary_is_refused(teacher, shared_records_dir, tmp_path):
    words = ("--output_dir", str(tmp_path / "out"), "--max_steps", "1")
    other = shutil.copytree(next(teacher.glob("checkpoint-*")), tmp_path / "teacher")
    for path in other.glob("*token*"):
        path.unlink()
    (other / "vocab.txt").write_text((other / "vocab.txt").read_text().replace("w20", "another"))
    with pytest.raises(UserError, match="has a different vocabulary from the model's"):
        train("eager", shared_records_dir, tmp_path / "out", *words, "--teacher", str(other))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"teacher": "m", "distill_weight": 0.0}, "--teacher has no effect"),
        ({"distill_hidden_weight": 1.0}, "--teacher is missing"),
        ({"teacher": "m", "distill_weight": 1.5}, "--distill_weight must be at most 1"),
        ({"teacher": "m", "distill_temperature": 0.0}, "--distill_temperature must be above 0"),
    ],
)
def test_flags_without_effect(words, message):
    with pytest.raises(UserError, match=message):
        DistillationFlags(**words)
