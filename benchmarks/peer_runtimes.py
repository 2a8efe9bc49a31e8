"""ONNX Runtime's and OpenVINO's side of the inference benchmark: Hugging Face's BERT-base, exported from PyTorch.

Texts are sorted by length before they are batched. int8 is what each runtime's own tools make of the model: weights
quantized and activations as they come (ONNX Runtime), or both with NNCF's preset for transformers and 32 texts to
calibrate with (OpenVINO).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel

from benchmarks.worker import LENGTH, ROWS, Case, sentence_lengths, serve

Batch = dict[str, np.ndarray]
CALIBRATION_TEXTS = 32


class Pooled(torch.nn.Module):
    """BERT's pooled output, as a function of ids and mask."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = BertModel(BertConfig(attn_implementation="sdpa")).eval()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).pooler_output


def make_step(case: Case) -> Callable[[], None]:
    torch.manual_seed(0)
    threads = case.threads or len(os.sched_getaffinity(0))
    run = {"onnxruntime": _onnxruntime, "openvino": _openvino}[case.kind](case.precision, threads)
    lengths = [LENGTH[case.task]] if case.task == "inference_1" else sorted(sentence_lengths())
    batches = [_batch(lengths[first : first + ROWS[case.task]]) for first in range(0, len(lengths), ROWS[case.task])]

    def step() -> None:
        for batch in batches:
            run(batch)

    return step


def _batch(lengths: list[int]) -> Batch:
    mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(len(lengths)).integers(1000, 30000, mask.shape)
    return {"input_ids": ids, "attention_mask": mask}


def _example() -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in _batch([17, 9]).items()}


def _onnxruntime(precision: str, threads: int) -> Callable[[Batch], np.ndarray]:
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as directory:
        path, example = Path(directory) / "model.onnx", _example()
        rows, length = torch.export.Dim("rows", max=512), torch.export.Dim("length", max=512)
        shapes = {name: {0: rows, 1: length} for name in example}
        with torch.no_grad():
            torch.onnx.export(
                Pooled(), kwargs=example, f=path, dynamo=True, dynamic_shapes=shapes, input_names=list(example)
            )
        if precision == "int8":
            source, path = path, Path(directory) / "int8.onnx"
            quantize_dynamic(source, path)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, batch)[0]


def _openvino(precision: str, threads: int) -> Callable[[Batch], np.ndarray]:
    import openvino

    with torch.no_grad():
        model = openvino.convert_model(Pooled(), example_input=_example())
    if precision == "int8":
        import nncf

        texts = [_batch([16 + 3 * number]) for number in range(CALIBRATION_TEXTS)]
        model = nncf.quantize(
            model, nncf.Dataset(texts), model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION_TEXTS
        )
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        # What int8 leaves alone is computed as fast as this CPU can.
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
    }
    request = openvino.compile_model(model, "CPU", settings).create_infer_request()
    return lambda batch: request.infer(batch)[0]


if __name__ == "__main__":
    serve(make_step)
