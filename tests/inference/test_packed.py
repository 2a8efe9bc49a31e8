"""Inference on packed weights: the same answers as the modules give, and the choice of their precision."""

from pathlib import Path

import numpy as np
import oneflow as flow
import pytest

import kernels
from configs.model import MODERN, MOSAIC, BertConfig
from inference import load, packed
from inference.model import build
from inference.packed import choose_precision, pack
from inference.runner import Example, Runner
from modeling import BertModel
from utils.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "huggingface"
TEXTS = ["the cat [MASK] on a tree.", "a dog [MASK].", "the river and the [MASK] cat sat on a tree by the river."]
STATUS = kernels.load()
PRECISIONS = ["fp32", *(["bf16"] if STATUS.bf16 else []), *(["int8"] if STATUS.int8 else [])]
ours = pytest.mark.skipif(not STATUS.loaded, reason="of our kernels, which are not loaded")


def checkpoint(name):
    from conversion import read_checkpoint

    return read_checkpoint((FIXTURES / name) if "/" not in name else FIXTURES.parent / "encoders" / name)


def examples(count=9, longest=23, vocabulary=97):
    rng = np.random.default_rng(0)
    return [
        Example(rng.integers(0, vocabulary, length).astype(np.int32), np.zeros(length, np.int32))
        for length in rng.integers(1, longest + 1, count)
    ]


def outputs(runner, rows, names):
    return dict(runner.run(rows, names))


@ours
@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("pretraining", ("sequence_output", "pooled_output")),
        ("question_answering", ("start_logits", "end_logits")),
        ("roberta/masked_lm", ("sequence_output",)),
        ("distilbert/classification", ("logits",)),
    ],
)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_outputs_match_the_modules(model, names, precision):
    module = build(checkpoint(model)).eval()
    config = module.config
    rows = examples(longest=min(23, config.max_position_embeddings), vocabulary=config.vocab_size)
    expected = {}
    for index, row in enumerate(rows):
        with flow.no_grad():
            answers = module(flow.tensor(row.input_ids[None]), None, flow.tensor(row.segment_ids[None]))
        expected[index] = {name: answers[name].numpy()[0].copy() for name in names}
    got = outputs(Runner(build(checkpoint(model)), "eager", "cpu", 4, precision=precision), rows, names)
    tolerance = {"fp32": 1e-5, "bf16": 0.05, "int8": 0.1}[precision]
    assert got.keys() == expected.keys()
    for name in names:
        largest = max(np.abs(answers[name]).max() for answers in expected.values())
        for index in expected:
            np.testing.assert_allclose(got[index][name], expected[index][name], rtol=0, atol=tolerance * largest)


@ours
@pytest.mark.parametrize("precision", PRECISIONS)
def test_answers_of_every_precision(precision):
    expected = load(FIXTURES / "pretraining", mode="graph").fill_mask(TEXTS, top_k=97)
    model = load(FIXTURES / "pretraining", precision=precision)
    together = model.fill_mask(TEXTS, top_k=97)
    for one, other, text in zip(together, expected, TEXTS, strict=True):
        scores = {answer["token"]: answer["score"] for answer in one}
        assert max(abs(scores[answer["token"]] - answer["score"]) for answer in other) < 0.01
        alone = {answer["token"]: answer["score"] for answer in model.fill_mask(text, top_k=97)}
        assert max(abs(alone[token] - score) for token, score in scores.items()) < 0.005


@ours
def test_weights_written_after_packing_are_packed_again():
    model = build(checkpoint("pretraining"))
    runner = Runner(model, "eager", "cpu", 4)
    rows = examples(2)
    before = outputs(runner, rows, ("pooled_output",))
    for name, parameter in model.named_parameters():
        if name.endswith("dense.weight"):
            parameter.data.copy_(parameter * 2)
    after = outputs(runner, rows, ("pooled_output",))
    fresh = outputs(Runner(model, "eager", "cpu", 4), rows, ("pooled_output",))
    for index in range(len(rows)):
        assert np.abs(after[index]["pooled_output"] - before[index]["pooled_output"]).max() > 1e-3
        np.testing.assert_array_equal(after[index]["pooled_output"], fresh[index]["pooled_output"])


TINY = {"vocab_size": 97, "hidden_size": 36, "num_hidden_layers": 4, "num_attention_heads": 3, "intermediate_size": 23}
ENCODERS = {
    "modern": {**MODERN, "attention_window": 14},
    "modern without a limit in reach": MODERN,
    "mosaic": MOSAIC,
    "rms and silu": {**MODERN, "norm_type": "rms", "hidden_act": "silu", "attention_window": 6},
    "tanh form of GELU, gated with biases": {"hidden_act": "gelu_new", "feed_forward": "gated"},
    "relu, offset positions, one segment": {"hidden_act": "relu", "position_offset": 2, "type_vocab_size": 1},
}


@ours
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ENCODERS)
def test_variants_match_the_module(name, precision):
    config = BertConfig(**{**ENCODERS[name], **TINY, "max_position_embeddings": 91, "initializer_range": 0.15})
    rng = np.random.default_rng(1)
    model = BertModel(config, seed=3).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(flow.tensor(0.2 * rng.standard_normal(tuple(parameter.shape)).astype(np.float32)))
    ids = rng.integers(1, 97, (5, 83)).astype(np.int32)
    mask = (np.arange(83) < np.array([83, 1, 7, 63, 65])[:, None]).astype(np.int32)
    segments = rng.integers(0, 2, ids.shape).astype(np.int32)
    batch = [flow.tensor(array) for array in (ids * mask, mask, segments)]
    with flow.no_grad():
        expected = model(*batch)
        pack(model, precision)
        found = model(*batch)
    tolerance = {"fp32": 5e-6, "bf16": 0.08, "int8": 0.25}[precision]
    tokens = mask == 1
    for output, chosen in (("sequence_output", tokens), ("pooled_output", slice(None))):
        np.testing.assert_allclose(
            found[output].numpy()[chosen], expected[output].numpy()[chosen], rtol=0, atol=tolerance
        )


@ours
def test_packing_leaves_the_names_of_parameters_alone():
    model = build(checkpoint("pretraining"))
    names = [name for name, _ in model.named_parameters()]
    pack(model, "fp32")
    assert [name for name, _ in model.named_parameters()] == names


@pytest.mark.parametrize(
    ("asked", "bf16", "int8", "chosen"),
    [
        ("auto", True, True, "int8"),
        ("auto", True, False, "bf16"),
        ("auto", False, False, "fp32"),
        ("int8", True, True, "int8"),
        ("int8", True, False, "bf16"),
        ("int8", False, False, "fp32"),
        ("bf16", False, True, "fp32"),
        ("fp32", True, True, "fp32"),
    ],
)
def test_an_unsupported_precision_is_replaced_with_a_warning(monkeypatch, capsys, asked, bf16, int8, chosen):
    status = kernels.Status(True, "loaded", "avx512", (), bf16, int8)
    monkeypatch.setattr(packed.kernels, "load", lambda: status)
    assert choose_precision(asked, "cpu", "eager") == chosen
    warning = capsys.readouterr().err
    if asked in ("auto", chosen):
        assert warning == ""
    else:
        assert f"precision {asked} is not available" in warning and f"{chosen} is used instead" in warning
        assert warning.count("\n") == 1


def test_a_precision_without_kernels_or_on_cuda_is_fp32(monkeypatch, capsys):
    monkeypatch.setattr(packed.kernels, "load", lambda: kernels.Status(False, "no kernels here"))
    assert choose_precision("auto", "cpu", "eager") == "fp32"
    assert choose_precision("int8", "cpu", "eager") == "fp32"
    assert "no kernels here" in capsys.readouterr().err
    assert choose_precision("bf16", "cuda", "graph") == "fp32"
    assert "cuda only has fp32 and fp16" in capsys.readouterr().err
    assert choose_precision("fp16", "cuda:1", "graph") == choose_precision("fp16", "cuda", "eager") == "fp16"
    assert choose_precision("fp16", "cpu", "eager") == "fp32"  # like bf16


def test_refused_settings():
    with pytest.raises(UserError, match="precision int8 needs eager mode"):
        load(FIXTURES / "pretraining", mode="graph", precision="int8")
    with pytest.raises(UserError, match=r"int8_keep 99\.output is not a product"):
        load(FIXTURES / "pretraining", precision="fp32", int8_keep=("99.output",))


def test_an_encoder_that_cannot_be_packed_runs_without_int8(capsys):
    asked = choose_precision("int8", "cpu", "eager", has_int8=False)
    assert asked == ("bf16" if STATUS.bf16 else "fp32")
    assert "int8 is not available" in capsys.readouterr().err
    assert choose_precision("auto", "cpu", "eager", has_int8=False) == asked
