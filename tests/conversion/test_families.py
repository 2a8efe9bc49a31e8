"""ModernBERT, RoBERTa, DistilBERT and ELECTRA give transformers' outputs and gradients, and are written back unchanged.

The reference values come from `tests/fixtures/make_encoder_reference.py`.
"""

import json

import numpy as np
import oneflow as flow
import pytest
from safetensors.numpy import load_file, save_file

from configs.model import MODERN, BertConfig
from conversion import families, read_checkpoint, write_checkpoint
from inference import load_module
from inference.model import build
from tests.conversion.samples import FIXTURES
from tests.modeling.test_huggingface import run
from utils.errors import UserError

ENCODERS = FIXTURES / "encoders"
KINDS = ("modernbert", "roberta", "distilbert", "electra")
HEADS = ("masked_lm", "classification", "question_answering")
CASES = [(kind, head) for kind in KINDS for head in HEADS]
TOLERANCE = 1e-5


def directory_of(kind, head):
    return ENCODERS / kind / head


def model_and_batch(kind, head):
    directory = directory_of(kind, head)
    with np.load(directory / "reference.npz") as file:
        reference = dict(file)
    batch = {name: reference[name] for name in ("input_ids", "input_mask", "segment_ids") if name in reference}
    if head == "masked_lm":
        labels = reference["label_ids"]
        positions = np.tile(np.arange(labels.shape[1], dtype=np.int32), (len(labels), 1))
        batch |= {"masked_lm_positions": positions, "masked_lm_ids": np.maximum(labels, 0)}
        batch["masked_lm_weights"] = (labels != -100).astype(np.float32)
    else:
        names = ("label_ids",) if head == "classification" else ("start_positions", "end_positions")
        batch |= {name: reference[name] for name in names}
    return build(read_checkpoint(directory)).eval(), batch, reference


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize(("kind", "head"), CASES)
def test_outputs_equal_transformers(kind, head, mode):
    model, batch, reference = model_and_batch(kind, head)
    found = run(model, batch, tuple(batch), mode)
    tokens = batch["input_mask"] == 1
    names = {"masked_lm": "prediction_scores", "classification": "logits"}
    names = [(names[head], "logits")] if head in names else [(n, n) for n in ("start_logits", "end_logits")]
    for own, theirs in [*names, ("sequence_output", "sequence_output"), ("total_loss", "total_loss")]:
        actual, expected = found[own].numpy(), reference[theirs]
        if actual.shape[:2] == tokens.shape:  # outputs at padding are meaningless
            actual, expected = actual[tokens], expected[tokens]
        np.testing.assert_allclose(actual, expected.reshape(actual.shape), rtol=TOLERANCE, atol=TOLERANCE, err_msg=own)


@pytest.mark.parametrize(("kind", "head"), CASES)
def test_gradients_equal_transformers(kind, head):
    model, batch, _ = model_and_batch(kind, head)
    run(model, batch, tuple(batch), "eager")["total_loss"].backward()
    found = {name: parameter.grad.numpy() for name, parameter in model.named_parameters() if parameter.grad is not None}
    stored, settings = load_file(directory_of(kind, head) / "gradients.safetensors"), config_of(kind, head)
    expected = families.read_tensors(stored, settings, families.FAMILIES[kind])
    assert len(expected) >= 2
    for name, gradient in expected.items():
        actual = found[name].copy()
        if name.endswith(("word_embeddings.weight", "position_embeddings.weight")):
            still = np.abs(gradient).max(axis=1) == 0  # PyTorch does not train the row of padding, and we do
            actual[still] = 0
        np.testing.assert_allclose(actual, gradient, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


def config_of(kind, head):
    return json.loads((directory_of(kind, head) / "config.json").read_text())


@pytest.mark.parametrize(("kind", "head"), CASES)
def test_what_is_written_is_what_was_read(tmp_path, kind, head):
    directory = directory_of(kind, head)
    write_checkpoint(read_checkpoint(directory), tmp_path / "out")
    back, first = (load_file(path / "model.safetensors") for path in (tmp_path / "out", directory))
    assert back.keys() == first.keys()
    assert all(np.array_equal(back[name], first[name]) for name in first)
    written, given = json.loads((tmp_path / "out" / "config.json").read_text()), config_of(kind, head)
    same = ("model_type", "architectures", "id2label", "pad_token_id", "max_position_embeddings")
    assert [written.get(name) for name in same] == [given.get(name) for name in same]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_this_project_is_written_as_the_type_that_describes_it(tmp_path, kind):
    """A fine-tuned model is saved as a variant of BERT, and `convert_checkpoint.py` gives it its own type again."""
    directory = directory_of(kind, "question_answering")
    read = read_checkpoint(directory)
    build(read).save_pretrained(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["model_type"] == "bert-variant"
    write_checkpoint(read_checkpoint(tmp_path / "run"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == kind
    back, first = (load_file(path / "model.safetensors") for path in (tmp_path / "out", directory))
    assert back.keys() == first.keys() and all(np.array_equal(back[name], first[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_an_encoder_without_a_prefix_is_read(tmp_path, kind):
    directory, base = directory_of(kind, "question_answering"), families.FAMILIES[kind].base + "."
    stored = load_file(directory / "model.safetensors")
    bare = {name.removeprefix(base): array for name, array in stored.items() if name.startswith(base)}
    save_file(bare, tmp_path / "model.safetensors")
    settings = config_of(kind, "question_answering") | {"architectures": [families.FAMILIES[kind].classes + "Model"]}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    found, expected = read_checkpoint(tmp_path), read_checkpoint(directory)
    assert found.architecture == "BertModel" and not found.report.unexpected
    assert all(np.array_equal(array, expected.state[name]) for name, array in found.state.items())


def test_both_spellings_of_modernberts_settings_are_read(tmp_path):
    old = config_of("modernbert", "masked_lm") | {"global_rope_theta": 500.0, "local_rope_theta": 70.0}
    new = {name: value for name, value in old.items() if "rope" not in name and name != "global_attn_every_n_layers"}
    new["layer_types"] = ["full_attention", "sliding_attention", "full_attention"]
    new["rope_parameters"] = {
        "full_attention": {"rope_type": "default", "rope_theta": 500.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 70.0},
    }
    first, second = (modernbert(tmp_path / str(i), settings).config for i, settings in enumerate((old, new)))
    assert first == second and (first.rope_theta, first.local_rope_theta) == (500.0, 70.0)
    assert first.global_attention_every == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mlp_bias": True}, "biases in only some of its linear layers"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types"),
        ({"layer_types": 7}, "layer_types"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "'yarn' rotary positions"),
        ({"hidden_activation": "mish"}, "mish"),
        ({"classifier_pooling": "max"}, "classifier_pooling"),
        ({"num_attention_heads": 8}, "even head size"),
    ],
)
def test_a_modernbert_that_is_not_supported_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        modernbert(tmp_path / "m", config_of("modernbert", "masked_lm") | changes)


def test_a_tensor_that_cannot_be_split_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"Wqkv.weight has shape \[25, 8\]"):
        modernbert(tmp_path / "m", config_of("modernbert", "masked_lm"), {"model.layers.0.attn.Wqkv.weight": (25, 8)})


def modernbert(directory, settings, shapes=None):
    directory.mkdir()
    state = load_file(directory_of("modernbert", "masked_lm") / "model.safetensors")
    state |= {name: np.ones(shape, np.float32) for name, shape in (shapes or {}).items()}
    save_file(state, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(settings))
    return read_checkpoint(directory)


def test_a_separate_decoder_is_kept(tmp_path):
    settings = config_of("modernbert", "masked_lm") | {"tie_word_embeddings": False}
    read = modernbert(tmp_path / "m", settings, {"decoder.weight": (29, 8)})
    write_checkpoint(read, tmp_path / "out")
    assert (load_file(tmp_path / "out" / "model.safetensors")["decoder.weight"] == 1).all()


def test_a_variant_of_no_family_stays_a_variant():
    state = {"bert.embeddings.word_embeddings.weight": np.zeros((7, 8), np.float32)}
    config = BertConfig(**{**MODERN, "norm_type": "rms"})
    assert families.write(config, state, "BertModel", None) is None
    assert families.write(BertConfig(), state, "BertModel", None) is None


def test_roberta_counts_only_tokens_that_are_not_padding():
    model, batch, _ = model_and_batch("roberta", "masked_lm")
    ids = flow.tensor(batch["input_ids"][:1, :7])
    padded = flow.cat([flow.full((1, 3), 1, dtype=ids.dtype), ids], dim=1)  # padding on the left
    mask = flow.cat([flow.zeros((1, 3), dtype=flow.int32), flow.ones((1, 7), dtype=flow.int32)], dim=1)
    expected = model.bert(ids)["sequence_output"].numpy()
    found = model.bert(padded, mask)["sequence_output"].numpy()[:, 3:]
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", HEADS)
def test_the_module_of_a_checkpoint_returns_hidden_states_and_logits(kind, head):
    _, batch, reference = model_and_batch(kind, head)
    inputs = {name: flow.tensor(batch[name]) for name in ("input_ids", "input_mask", "segment_ids") if name in batch}
    found, tokens = load_module(directory_of(kind, head))(**inputs), batch["input_mask"] == 1
    expected = (
        reference["logits"]
        if "logits" in reference
        else np.stack([reference["start_logits"], reference["end_logits"]], axis=2)
    )
    for name, values in (("sequence_output", reference["sequence_output"]), ("logits", expected)):
        actual = found[name].numpy()
        if actual.shape[:2] == tokens.shape:
            actual, values = actual[tokens], values[tokens]
        np.testing.assert_allclose(actual, values, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)


@pytest.mark.parametrize("target", ["onnx", "tf", "lazy"])
def test_formats_that_cannot_describe_a_variant_refuse_it(tmp_path, target):
    with pytest.raises(UserError, match="variant of BERT"):
        write_checkpoint(read_checkpoint(directory_of("modernbert", "masked_lm")), tmp_path / "out", target)
