"""ONNX graphs in ONNX Runtime against the model they were made from, for every head, variant and shape."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import oneflow as flow
import pytest

import convert_checkpoint
from configs.convert import ConvertConfig
from configs.model import BertConfig
from conversion import Checkpoint, OnnxOptions, read_checkpoint, write_checkpoint
from conversion.names import CLASSIFIER, ENCODER, MASKED_LM, NEXT_SENTENCE, POOLER, SQUAD, Report, rows
from conversion.onnx_export import TASKS
from inference.model import build
from tests.conversion.samples import MODELS, assert_same_state, model_directory
from utils.errors import UserError

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIZES = {"V": 97, "L": 53, "T": 2, "E": 15, "H": 15, "I": 37, "C": 5}
CONFIG = {
    "vocab_size": 97, "hidden_size": 15, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 37,
    "max_position_embeddings": 53,
}  # fmt: skip
SHAPES = [(batch, length) for batch in (1, 2, 3, 7) for length in (1, 2, 11, 37, 53)]
# The head of a checkpoint, its parameters, and what our module calls the graph's outputs.
HEADS = {
    "features": ((ENCODER, POOLER), {"last_hidden_state": "sequence_output", "pooler_output": "pooled_output"}),
    "features-without-pooler": ((ENCODER,), {"last_hidden_state": "sequence_output"}),
    "masked-lm": ((ENCODER, MASKED_LM), {"logits": "prediction_scores"}),
    "pretraining": (
        (ENCODER, POOLER, MASKED_LM, NEXT_SENTENCE),
        {"logits": "prediction_scores", "seq_relationship_logits": "seq_relationship_score"},
    ),
    "next-sentence": ((ENCODER, POOLER, NEXT_SENTENCE), {"logits": "seq_relationship_score"}),
    "questions": ((ENCODER, SQUAD), {"start_logits": "start_logits", "end_logits": "end_logits"}),
    "classification": ((ENCODER, POOLER, CLASSIFIER), {"logits": "logits"}),
    "tagging": ((ENCODER, CLASSIFIER), {"logits": "logits"}),
}
VARIANTS = {
    "pre-norm": {"norm": "pre", "final_norm": True},
    "no-norm-of-embeddings": {"embedding_norm": False},
    "sinusoidal": {"position_embeddings": "sinusoidal"},
    "no-biases": {"linear_bias": False},
    "minimal": {"norm": "pre", "final_norm": True, "position_embeddings": "sinusoidal", "linear_bias": False},
}


def checkpoint_of(groups, **settings):
    """A checkpoint with random weights of these groups."""
    labels = {"num_labels": SIZES["C"]} if CLASSIFIER in groups else {}
    labels |= {"architectures": ["BertForTokenClassification"]} if labels and POOLER not in groups else {}
    config = BertConfig.from_dict(CONFIG | settings | labels)
    generator = np.random.default_rng(11)
    state = {
        row.name: (generator.standard_normal(row.shape(SIZES)) * 0.3).astype(np.float32)
        for row in rows(config.num_hidden_layers)
        if row.group in groups and config.has_parameter(row.name)
    }
    return Checkpoint(Path("random"), "hf", config, state, {}, Report({}, [], [], [], []))


def random_inputs(shape, seed=0):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, shape[1] + 1, (shape[0], 1))
    mask = (np.arange(shape[1]) < lengths).astype(np.int64)
    return {
        "input_ids": generator.integers(1, 97, shape) * mask,
        "attention_mask": mask,
        "token_type_ids": generator.integers(0, 2, shape) * mask,
    }


def run(directory, inputs):
    """{output: array} of ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def assert_same_answers(checkpoint, directory, names, shapes=SHAPES, atol=1e-5):
    model = build(checkpoint).eval()
    for shape in shapes:
        inputs = random_inputs(shape)
        found = run(directory, inputs)
        expected = model(*(flow.tensor(inputs[name]) for name in ("input_ids", "attention_mask", "token_type_ids")))
        assert found.keys() == names.keys()
        for output, name in names.items():
            np.testing.assert_allclose(found[output], expected[name].numpy(), atol=atol, err_msg=f"{output} {shape}")


@pytest.mark.parametrize("head", HEADS)
def test_every_head_answers_as_the_model_does(tmp_path, head):
    groups, names = HEADS[head]
    checkpoint = checkpoint_of(groups)
    write_checkpoint(checkpoint, tmp_path / "onnx", "onnx")
    onnx.checker.check_model(str(tmp_path / "onnx" / "model.onnx"), full_check=True)
    assert_same_answers(checkpoint, tmp_path / "onnx", names)
    assert_same_state(read_checkpoint(tmp_path / "onnx").state, checkpoint.state)


@pytest.mark.parametrize(
    ("task", "head"),
    [("feature-extraction", "features"), ("fill-mask", "masked-lm"), ("next-sentence", "next-sentence")],
)
def test_one_task_of_a_model_with_several_heads(tmp_path, task, head):
    groups, names = HEADS[head]
    checkpoint = checkpoint_of((ENCODER, POOLER, MASKED_LM, NEXT_SENTENCE))
    write_checkpoint(checkpoint, tmp_path / "onnx", "onnx", onnx=OnnxOptions(task))
    found = read_checkpoint(tmp_path / "onnx")
    assert {row.group for row in rows(3) if row.name in found.state} == set(groups)
    assert found.settings["architectures"] == [found.architecture]
    assert run(tmp_path / "onnx", random_inputs((2, 7))).keys() == names.keys()


def test_a_task_that_the_model_has_no_head_for(tmp_path):
    with pytest.raises(UserError, match=r"qa_outputs\.weight is missing.*--onnx_task"):
        write_checkpoint(checkpoint_of((ENCODER,)), tmp_path / "onnx", "onnx", onnx=OnnxOptions("question-answering"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_answers_as_the_model_does(tmp_path, variant):
    groups, names = HEADS["pretraining"]
    checkpoint = checkpoint_of(groups, **VARIANTS[variant])
    write_checkpoint(checkpoint, tmp_path / "onnx", "onnx")
    assert_same_answers(checkpoint, tmp_path / "onnx", names, SHAPES[::7])
    assert read_checkpoint(tmp_path / "onnx").config == checkpoint.config


@pytest.mark.parametrize("name", MODELS)
def test_answers_of_hugging_face(tmp_path, name):
    write_checkpoint(read_checkpoint(model_directory(name)), tmp_path / "onnx", "onnx")
    with np.load(model_directory(name) / "reference.npz") as file:
        reference = dict(file)
    ours = {"input_ids": "input_ids", "attention_mask": "input_mask", "token_type_ids": "segment_ids"}
    found = run(tmp_path / "onnx", {theirs: reference[own].astype(np.int64) for theirs, own in ours.items()})
    renamed = {"seq_relationship_logits": "seq_relationship_score"}
    renamed |= {"logits": "prediction_scores"} if name == "pretraining" else {}
    for output, array in found.items():
        np.testing.assert_allclose(array, reference[renamed.get(output, output)], atol=1e-5)


def test_the_directory_names_its_inputs_outputs_and_axes(tmp_path):
    write_checkpoint(read_checkpoint(model_directory("question_answering")), tmp_path / "onnx", "onnx")
    model = onnx.load(str(tmp_path / "onnx" / "model.onnx"))

    def axes(value):
        return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]

    tokens = ["batch_size", "sequence_length"]
    assert {value.name: axes(value) for value in model.graph.input} == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), tokens
    )
    assert {value.name: axes(value) for value in model.graph.output} == {"start_logits": tokens, "end_logits": tokens}
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata == {"architecture": "BertForQuestionAnswering", "precision": "fp32"}
    config = json.loads((tmp_path / "onnx" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("bert", ["BertForQuestionAnswering"])
    assert (tmp_path / "onnx" / "vocab.txt").is_file()


@pytest.mark.parametrize("name", MODELS)
def test_int8_stays_close(tmp_path, name):
    checkpoint = read_checkpoint(model_directory(name))
    write_checkpoint(checkpoint, tmp_path / "fp32", "onnx")
    write_checkpoint(checkpoint, tmp_path / "int8", "onnx", onnx=OnnxOptions(precision="int8"))
    onnx.checker.check_model(str(tmp_path / "int8" / "model.onnx"), full_check=True)
    exact, quantized = (run(tmp_path / precision, random_inputs((3, 17))) for precision in ("fp32", "int8"))
    for output in exact:
        error = np.abs(quantized[output] - exact[output]).max()
        assert 0 < error < 0.1 * np.abs(exact[output]).max()
    stored = {tensor.name: tensor for tensor in onnx.load(str(tmp_path / "int8" / "model.onnx")).graph.initializer}
    weights = onnx.numpy_helper.to_array(stored["bert.encoder.layer.0.intermediate.dense.weight_int8"])
    assert weights.dtype == np.int8 and weights.shape == (15, 29) and np.abs(weights).max() == 64
    with pytest.raises(UserError, match="quantized"):
        read_checkpoint(tmp_path / "int8")


@pytest.mark.parametrize("name", MODELS)
def test_calibrated_int8_stays_close(tmp_path, name):
    checkpoint = read_checkpoint(model_directory(name))
    words = (model_directory(name) / "vocab.txt").read_text().split()
    generator = np.random.default_rng(5)
    (tmp_path / "texts").write_text("".join(" ".join(generator.choice(words, 30)) + "\n\n" for _ in range(40)))
    options = OnnxOptions(precision="int8", calibration_path=str(tmp_path / "texts"))
    write_checkpoint(checkpoint, tmp_path / "fp32", "onnx")
    write_checkpoint(checkpoint, tmp_path / "int8", "onnx", onnx=options)
    model = onnx.load(str(tmp_path / "int8" / "model.onnx"))
    onnx.checker.check_model(model, full_check=True)
    kinds = {node.op_type for node in model.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds and "DynamicQuantizeLinear" not in kinds
    exact, quantized = (run(tmp_path / precision, random_inputs((3, 17))) for precision in ("fp32", "int8"))
    assert exact.keys() == quantized.keys()
    for output in exact:
        error = np.sqrt(np.mean((quantized[output] - exact[output]) ** 2))
        assert 0 < error < 0.1 * np.sqrt(np.mean(exact[output] ** 2))


def test_texts_that_cannot_calibrate(tmp_path):
    checkpoint = read_checkpoint(model_directory("classification"))

    def convert(**changes):
        options = OnnxOptions(precision="int8", calibration_path=str(tmp_path / "texts"))
        write_checkpoint(dataclasses.replace(checkpoint, **changes), tmp_path / "out", "onnx", onnx=options)

    with pytest.raises(UserError, match=r"--calibration_path .*texts cannot be read: No such file"):
        convert()
    (tmp_path / "texts").write_bytes(b"\n \n")
    with pytest.raises(UserError, match="contains no text"):
        convert()
    (tmp_path / "texts").write_text("a text\n")
    with pytest.raises(UserError, match="--vocab_file"):
        convert(path=tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "vocab.txt").write_text(
        "".join(f"w{i}\n" for i in range(500)) + "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"
    )
    with pytest.raises(UserError, match="check that the vocabulary belongs to the model"):
        convert(path=tmp_path / "other")
    shutil.rmtree(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_weights_beyond_the_limit_go_into_a_file_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr("conversion.onnx_export._MOST_INLINE_BYTES", 1000)
    checkpoint = read_checkpoint(model_directory("pretraining"))
    write_checkpoint(checkpoint, tmp_path / "onnx", "onnx")
    matrices = sum(array.nbytes for array in checkpoint.state.values() if array.ndim == 2)
    assert (tmp_path / "onnx" / "model.onnx_data").stat().st_size == matrices
    assert_same_answers(checkpoint, tmp_path / "onnx", HEADS["pretraining"][1], SHAPES[::9])


def test_only_what_the_head_needs_is_written(tmp_path):
    checkpoint = checkpoint_of((ENCODER, POOLER, SQUAD))
    write_checkpoint(checkpoint, tmp_path / "onnx", "onnx")
    expected = {name: array for name, array in checkpoint.state.items() if ".pooler." not in name}
    assert_same_state(read_checkpoint(tmp_path / "onnx").state, expected)


def test_a_parameter_that_the_head_lacks(tmp_path):
    checkpoint = checkpoint_of((ENCODER, NEXT_SENTENCE))
    with pytest.raises(UserError, match=r"bert\.pooler\.dense\.weight is missing"):
        write_checkpoint(checkpoint, tmp_path / "onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_without_the_onnx_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="make setup EXTRAS=onnx"):
        write_checkpoint(read_checkpoint(model_directory("classification")), tmp_path / "onnx", "onnx")


def test_the_command(tmp_path, monkeypatch, capsys):
    def convert(*flags):
        words = ["convert_checkpoint.py", "--input", str(model_directory("pretraining")), *flags]
        monkeypatch.setattr(sys, "argv", words)
        convert_checkpoint.main()
        return capsys.readouterr().out

    shown = convert("--to", "onnx", "--onnx_task", "feature-extraction", "--output", str(tmp_path / "a"))
    assert "written in format onnx, read back and equal bit for bit" in shown
    shown = convert("--to", "onnx", "--onnx_precision", "int8", "--output", str(tmp_path / "b"))
    assert "written in format onnx, with quantized weights" in shown
    with pytest.raises(UserError, match="--onnx_precision int8 needs --to onnx, not --to hf"):
        convert("--onnx_precision", "int8", "--output", str(tmp_path / "c"))


def test_the_flags_name_every_task():
    hints = {field.name: field.metadata["choices"] for field in dataclasses.fields(ConvertConfig)}
    assert hints["onnx_task"] == ("auto", *TASKS)
