"""The packed encoder against float64, in each precision that this CPU has."""

import os
import subprocess
import sys

import numpy as np
import pytest

import kernels
from kernels.encoder import EncoderShape, PackedEncoder
from tests.kernels.encoder_reference import draw, encode

STATUS = kernels.load()
pytestmark = pytest.mark.skipif(not STATUS.loaded, reason="of our kernels, which are not loaded")

# Largest error of outputs that LayerNorm leaves with a standard deviation of about 1.
TOLERANCES = {"fp32": 5e-6, "bf16": 0.06, "int8": 0.2}
PRECISIONS = ["fp32", *(["bf16"] if STATUS.bf16 else []), *(["int8"] if STATUS.int8 else [])]
LOW = "bf16" if STATUS.bf16 else "fp32"
SHAPES = {
    "odd": EncoderShape(2, 15, 5, 19, 37, 13, 2, False, 1e-12),
    "one of everything": EncoderShape(1, 1, 1, 1, 1, 13, 1, False, 1e-2),
    "wide heads": EncoderShape(1, 130, 1, 67, 37, 71, 2, False, 1e-12),
    "multiples of vectors": EncoderShape(3, 64, 2, 128, 37, 71, 2, False, 1e-12),
}


def make(shape, parameters, precision, kept=()):
    return PackedEncoder(shape, parameters, precision, "fp32" if precision == "fp32" else LOW, kept)


def batch(shape, rows, length, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, shape.vocabulary, (rows, length)).astype(np.int32)
    segments = rng.integers(0, shape.segments, (rows, length)).astype(np.int32)
    lengths = rng.integers(1, length + 1, rows)
    lengths[0] = length
    return ids, segments, np.arange(length) < lengths[:, None]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("pre_norm", [False, True])
def test_outputs_match_float64(name, precision, pre_norm):
    shape = EncoderShape(**{**vars(SHAPES[name]), "pre_norm": pre_norm})
    parameters = draw(shape, 1, biases=not pre_norm, final_norm=pre_norm, embedding_norm=not pre_norm)
    inputs = batch(shape, 5, shape.positions)
    expected, pooled = encode(shape, parameters, *inputs)
    encoder = make(shape, parameters, precision)
    output = encoder.run(*inputs)
    np.testing.assert_allclose(output, expected, rtol=0, atol=TOLERANCES[precision])
    assert not output[~inputs[2]].any()
    np.testing.assert_allclose(encoder.pool(output[:, 0]), pooled, rtol=0, atol=TOLERANCES[precision])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_outputs_do_not_depend_on_the_batch(precision):
    shape = SHAPES["multiples of vectors"]
    encoder = make(shape, draw(shape, 2), precision)
    ids, segments, keep = batch(shape, 29, 53)
    together = encoder.run(ids, segments, keep)
    for row in range(len(ids)):
        length = keep[row].sum()
        alone = encoder.run(ids[row : row + 1, :length], segments[row : row + 1, :length], keep[row : row + 1, :length])
        # Products may add in another order: a last bit of bf16, or a step of int8, can differ.
        tolerance = {"fp32": 2e-6, "bf16": 0.02, "int8": 0.05}[precision]
        np.testing.assert_allclose(alone[0], together[row, :length], rtol=0, atol=tolerance)


def test_masked_tokens_may_be_anywhere_and_rows_may_be_empty():
    shape = SHAPES["odd"]
    parameters = draw(shape, 3)
    ids, segments, keep = batch(shape, 4, 11)
    keep[0, 3:5] = False
    keep[2] = False
    output = make(shape, parameters, "fp32").run(ids, segments, keep)
    np.testing.assert_allclose(output, encode(shape, parameters, ids, segments, keep)[0], rtol=0, atol=5e-6)
    assert not make(shape, parameters, "fp32").run(ids, segments, np.zeros_like(keep)).any()


def test_ids_outside_the_tables_count_as_zero_vectors():
    shape = SHAPES["odd"]
    parameters = draw(shape, 4)
    ids, segments, keep = batch(shape, 1, 3)
    zero = dict(parameters)
    zero["embeddings.word_embeddings.weight"] = np.vstack(
        [parameters["embeddings.word_embeddings.weight"], np.zeros((1, shape.hidden), np.float32)]
    )
    ids[0, 1] = shape.vocabulary
    wider = EncoderShape(**{**vars(shape), "vocabulary": shape.vocabulary + 1})
    expected = make(wider, zero, "fp32").run(ids, segments, keep)
    for outside in (shape.vocabulary, -1, 2**31 - 1):
        ids[0, 1] = outside
        np.testing.assert_array_equal(make(shape, parameters, "fp32").run(ids, segments, keep), expected)


@pytest.mark.skipif(not STATUS.int8, reason="this CPU has no int8 products")
def test_kept_products_lower_the_error():
    shape = SHAPES["multiples of vectors"]
    parameters = draw(shape, 5)
    inputs = batch(shape, 7, 31)
    expected, _ = encode(shape, parameters, *inputs)
    every = ("attention.self", "attention.output", "intermediate", "output")
    errors = [
        np.abs(make(shape, parameters, "int8", kept).run(*inputs) - expected).mean()
        for kept in ((), ("output",), ("0.attention.self", "output", "intermediate"), every)
    ]
    assert errors == sorted(errors, reverse=True)
    np.testing.assert_array_equal(
        make(shape, parameters, "int8", every).run(*inputs), make(shape, parameters, LOW).run(*inputs)
    )


@pytest.mark.parametrize(
    "name",
    ["encoder.layer.1.attention.self.key.weight", "encoder.layer.0.output.LayerNorm.bias", "pooler.dense.bias"],
)
def test_written_weights_are_noticed(name):
    shape = SHAPES["odd"]
    parameters = draw(shape, 6)
    encoder = make(shape, parameters, "fp32")
    assert encoder.is_current()
    parameters[name] *= 1.5
    assert not encoder.is_current()


AVX2 = """
import numpy as np
import kernels
kernels.configure()
from kernels.encoder import PackedEncoder
from tests.kernels.encoder_reference import draw, encode
from tests.kernels.test_encoder import SHAPES, batch
status = kernels.load()
print(status.isa, status.bf16, status.int8)
for shape in SHAPES.values():
    parameters, inputs = draw(shape, 1), batch(shape, 5, 13)
    output = PackedEncoder(shape, parameters, "fp32", "fp32").run(*inputs)
    print(np.abs(output - encode(shape, parameters, *inputs)[0]).max())
"""


def test_fp32_works_on_avx2():
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", AVX2], env=environment, capture_output=True, text=True, check=True)
    first, *errors = done.stdout.splitlines()
    assert first == "avx2 False False"
    assert max(map(float, errors)) < TOLERANCES["fp32"]
