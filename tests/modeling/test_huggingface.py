"""Hidden states, logits, losses and gradients equal Hugging Face transformers' on the same random weights.

The reference values come from `tests/fixtures/make_huggingface_reference.py` and `make_classifier_reference.py`.
"""

from pathlib import Path

import numpy as np
import oneflow as flow
import pytest

from modeling import (
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "huggingface"
INPUTS = ("input_ids", "input_mask", "segment_ids")
CASES = {
    "pretraining": (
        BertForPreTraining,
        ("masked_lm_positions", "masked_lm_ids", "masked_lm_weights", "next_sentence_labels"),
        ("pooled_output", "prediction_scores", "seq_relationship_score", "total_loss", "mlm_loss", "nsp_loss"),
    ),
    "question_answering": (
        BertForQuestionAnswering,
        ("start_positions", "end_positions"),
        ("start_logits", "end_logits", "total_loss"),
    ),
    "classification": (BertForSequenceClassification, ("label_ids",), ("logits", "total_loss")),
    "multi_label": (BertForSequenceClassification, ("label_ids",), ("logits", "total_loss")),
    "regression": (BertForSequenceClassification, ("label_ids",), ("logits", "total_loss")),
    "token_classification": (BertForTokenClassification, ("label_ids", "label_weights"), ("logits", "total_loss")),
}
TOLERANCE = 1e-5


def load_case(name):
    model_class, labels, outputs = CASES[name]
    with np.load(FIXTURES / name / "reference.npz") as file:
        reference = dict(file)
    return model_class.from_pretrained(FIXTURES / name), reference, labels, outputs


def tensors(reference, names):
    return [flow.tensor(reference[name]) for name in names]


def run(model, reference, names, mode):
    """The model's outputs for the named inputs, eager or from a plain `nn.Graph`."""
    if mode == "eager":
        return model(**dict(zip(names, tensors(reference, names), strict=True)))
    keys = []

    class Graph(flow.nn.Graph):
        def __init__(self):
            super().__init__()
            self.model = model

        def build(self, *inputs):
            outputs = self.model(**dict(zip(names, inputs, strict=True)))
            keys[:] = outputs
            return tuple(outputs.values())

    values = Graph()(*tensors(reference, names))
    return dict(zip(keys, values, strict=True))


def assert_close(actual, expected, message):
    actual = actual.numpy()
    np.testing.assert_allclose(actual, expected.reshape(actual.shape), rtol=TOLERANCE, atol=TOLERANCE, err_msg=message)


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_losses_equal_hugging_faces(name, mode):
    model, reference, labels, outputs = load_case(name)
    model.eval()
    found = run(model, reference, INPUTS + labels, mode)
    for output in outputs:
        expected = reference[output]
        if output == "prediction_scores":  # ours are [B, P, V] if positions are given
            expected = np.take_along_axis(expected, reference["masked_lm_positions"][:, :, None], axis=1)
        assert_close(found[output], expected, output)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_without_masked_positions_all_positions_are_scored(mode):
    model, reference, _, _ = load_case("pretraining")
    model.eval()
    found = run(model, reference, INPUTS, mode)
    assert_close(found["prediction_scores"], reference["prediction_scores"], "prediction_scores")
    assert "total_loss" not in found


def test_hidden_states_of_every_layer_equal_hugging_faces():
    model, reference, _, _ = load_case("pretraining")
    model.eval()
    encoder, expected = model.bert, reference["hidden_states"]  # [layers + 1, B, S, H]
    layers = list(encoder.encoder.layer)
    for count in range(len(layers) + 1):
        encoder.encoder.layer = flow.nn.ModuleList(layers[:count])
        assert_close(encoder(*tensors(reference, INPUTS))["sequence_output"], expected[count], f"after {count} layers")


def test_an_encoder_loads_from_a_pretraining_directory():
    _, reference, _, _ = load_case("pretraining")
    with np.load(FIXTURES / "pretraining" / "reference.npz") as file:
        expected = file["hidden_states"][-1]
    model = BertModel.from_pretrained(FIXTURES / "pretraining").eval()
    assert_close(model(*tensors(reference, INPUTS))["sequence_output"], expected, "sequence_output")


def gradients(model, reference, names, mode):
    """{parameter name: gradient of the total loss}; in graph mode from an SGD step with learning rate 1."""
    if mode == "eager":
        run(model, reference, names, "eager")["total_loss"].backward()
        return {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}

    class Graph(flow.nn.Graph):
        def __init__(self):
            super().__init__()
            self.model = model
            self.add_optimizer(flow.optim.SGD(model.parameters(), lr=1.0))

        def build(self, *inputs):
            loss = self.model(**dict(zip(names, inputs, strict=True)))["total_loss"]
            loss.backward()
            return loss

    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    Graph()(*tensors(reference, names))
    return {name: before[name] - p.numpy() for name, p in model.named_parameters()}


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_equal_hugging_faces(name, mode):
    model, reference, labels, _ = load_case(name)
    model.train()  # the fixture's dropout rates are 0
    found = gradients(model, reference, INPUTS + labels, mode)
    expected = {key.removeprefix("grad:"): value for key, value in reference.items() if key.startswith("grad:")}
    assert len(expected) > 5
    # PyTorch's embedding keeps the row of [PAD] fixed (padding_idx). Google's code trains it, and so do we.
    words = "bert.embeddings.word_embeddings.weight"
    if name != "pretraining" and words in found:
        found[words][0] = 0
    for parameter, gradient in expected.items():
        np.testing.assert_allclose(found[parameter], gradient, rtol=TOLERANCE, atol=TOLERANCE, err_msg=parameter)
    if name == "pretraining":  # the gradient reaches every parameter
        assert set(expected) == set(found)
        assert all(np.abs(gradient).max() > 0 for gradient in expected.values())
