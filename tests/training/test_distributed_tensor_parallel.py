"""Two ranks that share one model (--tensor_parallel 2) train like one process, with dropout, and resume each other."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file

import kernels
from configs.cli import parse
from configs.model import BertConfig
from configs.pretraining import PretrainingConfig
from configs.training import DeviceFlags
from launch.job_shape import JobShape
from modeling import BertForPreTraining, attention, layout
from modeling.embedding import BertForEmbedding
from tasks.pretraining import pretrain
from training.distributed import World, join
from training.journal import read_rows
from training.tensor_parallel import check_flags, check_model
from utils.errors import UserError

SMALL = (
    "--num_hidden_layers 2 --num_attention_heads 4 --hidden_size_per_head 5 --vocab_size 38 --with-cuda False "
    "--lr 1e-2 --weight_decay 0.1 --max_grad_norm 0.5 --hidden_dropout_prob 0.2 --attention_probs_dropout_prob 0.3 "
    "--loss_print_every_n_iters 1 --seed 5 --val-batch-size 3 --keep_last 0 --max_steps 6 --model_save_every_n_iter 3"
).split()
SPLIT = ["--tensor_parallel", "2"]
RUNS = {
    "adamw": "--train-batch-size 6 --ema_decay 0.5".split(),
    "lamb-tiles": "--train-batch-size 3 --grad-acc-steps 2 --optim_name lamb --do_eval False".split(),
}
FIGURES = ("total_loss", "mlm_loss", "nsp_loss", "grad_norm", "weight_norm", "eval_total_loss", "eval_ema_mlm_loss")
needs_kernels = pytest.mark.skipif(not kernels.is_loaded(), reason="of our kernels")


def figures(directory):
    rows = read_rows(directory / "metrics.jsonl")
    return {name: np.array([row[name] for row in rows if name in row]) for name in FIGURES}


def assert_same(directory, expected, first=0):
    found = figures(directory)
    for name, values in figures(expected).items():
        last = values[first:] if len(values) > 1 else values
        assert len(found[name]) == len(last)
        np.testing.assert_allclose(found[name], last, rtol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def root(two_ranks, shared_records_dir, tmp_path_factory):
    """Directories of runs: NAME of one process, NAME-split of two ranks, `resumed` of two after one."""
    root = tmp_path_factory.mktemp("runs")
    data = ["--ofrecord_path", str(shared_records_dir), "--val_ofrecord_path", str(shared_records_dir)]
    listing = []
    for name, words in RUNS.items():
        flags = [*SMALL, *data, *words, "--output_dir"]
        with pytest.MonkeyPatch.context() as patch:
            if name == "lamb-tiles":
                patch.setattr(attention, "LONG_ROW", 1)
                listing.append(["tiles", []])
            pretrain(parse(PretrainingConfig, [*flags, str(root / name)]), "graph")
        listing.append(["graph", [*flags, str(root / f"{name}-split"), *SPLIT]])
        if name == "adamw":
            listing.append(["copy", [str(root / name / "checkpoint-3"), str(root / "resumed")]])
            listing.append(["graph", [*flags, str(root / "resumed"), *SPLIT, "--resume"]])
    job = two_ranks(root, listing)
    output, _ = job.communicate(timeout=280)
    assert job.returncode == 0, output[-3000:]
    return root


@needs_kernels
@pytest.mark.parametrize("name", RUNS)
def test_ranks_that_share_a_model_train_like_one_process(root, name):
    assert figures(root / name)["grad_norm"].max() > 0.5  # --max_grad_norm: some are clipped
    assert_same(root / f"{name}-split", root / name)


@needs_kernels
@pytest.mark.parametrize("name", RUNS)
def test_their_checkpoints_are_those_of_one_process(root, name):
    for file in ("model.safetensors", "training_state/optimizer.safetensors"):
        one, split = (load_file(root / run / "checkpoint-6" / file) for run in (name, f"{name}-split"))
        assert one.keys() == split.keys()
        for tensor, array in one.items():
            np.testing.assert_allclose(split[tensor], array, rtol=1e-4, atol=1e-6, err_msg=tensor)


@needs_kernels
def test_they_resume_a_run_of_one_process(root):
    assert_same(root / "resumed", root / "adamw", first=3)


@needs_kernels
def test_one_process_resumes_their_run(root, shared_records_dir, tmp_path):
    shutil.copytree(root / "adamw-split" / "checkpoint-3", tmp_path / "checkpoint-3")
    data = ["--ofrecord_path", str(shared_records_dir), "--val_ofrecord_path", str(shared_records_dir)]
    flags = [*SMALL, *data, *RUNS["adamw"], "--output_dir", str(tmp_path), "--resume"]
    pretrain(parse(PretrainingConfig, flags), "graph")
    assert_same(tmp_path, root / "adamw", first=3)


def test_heads_features_and_vocabulary_are_divided():
    config = BertConfig(vocab_size=38, hidden_size=20, num_hidden_layers=1, num_attention_heads=4, intermediate_size=6)
    axes = {name: layout.split_axis(name) for name, _ in BertForPreTraining(config).named_parameters()}
    layer = "bert.encoder.layer.0."
    assert {name: axis for name, axis in axes.items() if axis is not None} == {
        "bert.embeddings.word_embeddings.weight": 0,
        **{f"{layer}attention.self.{p}.{kind}": 0 for p in ("query", "key", "value") for kind in ("weight", "bias")},
        f"{layer}attention.output.dense.weight": 1,
        f"{layer}intermediate.dense.weight": 0,
        f"{layer}intermediate.dense.bias": 0,
        f"{layer}output.dense.weight": 1,
        "cls.predictions.bias": 0,
    }


SHARED = World(JobShape(0, 2, ranks_per_replica=2), "cpu")


@pytest.mark.parametrize(
    ("mode", "words", "message"),
    [
        ("eager", "", "--tensor_parallel 2 only works in graph mode"),
        ("graph", "--skip_loss_spikes", "--skip_loss_spikes does not work with --tensor_parallel 2"),
        ("graph", "--padding none", "--padding none does not work with --tensor_parallel 2"),
        ("graph", "--packing best_fit", "--packing best_fit does not work with --tensor_parallel 2"),
    ],
)
def test_flags_that_do_not_work_are_refused(mode, words, message, monkeypatch):
    monkeypatch.setattr(kernels, "is_loaded", lambda: True)
    config = parse(PretrainingConfig, [*words.split(), *SPLIT])
    with pytest.raises(UserError, match=message):
        check_flags(mode, config, SHARED)
    check_flags("graph", parse(PretrainingConfig, SPLIT), SHARED)
    check_flags(mode, config, World(JobShape(), "cpu"))


def test_other_kernels_are_refused(monkeypatch):
    monkeypatch.setattr(kernels, "is_loaded", lambda: False)
    with pytest.raises(UserError, match="--tensor_parallel 2 needs a CPU and the CPU kernels"):
        check_flags("graph", parse(PretrainingConfig, SPLIT), SHARED)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_attention_heads": 3, "hidden_size": 15}, "num_attention_heads, 3: use --num_attention_heads 4"),
        ({"intermediate_size": 7}, "intermediate_size, 7: use --intermediate_size 8"),
        ({"vocab_size": 37}, "vocab_size, 37: use --vocab_size 38"),
    ],
)
def test_models_that_do_not_divide_are_refused(sizes, message):
    config = {"vocab_size": 38, "hidden_size": 20, "num_attention_heads": 4, "intermediate_size": 6}
    with pytest.raises(UserError, match=message):
        check_model(BertForPreTraining, BertConfig(**(config | sizes)), SHARED)
    check_model(BertForPreTraining, BertConfig(**config), SHARED)
    with pytest.raises(UserError, match="does not support replaced-token detection and embedding training"):
        check_model(BertForEmbedding, BertConfig(**config), SHARED)


def test_ranks_must_form_whole_replicas(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(UserError, match="--tensor_parallel 2 does not divide the job's 3 ranks"):
        join(DeviceFlags(tensor_parallel=2))
