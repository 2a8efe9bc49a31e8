"""Loading the kernels, doing without them, and what they report of themselves."""

import os
import subprocess
import sys

import numpy as np
import oneflow as flow
import pytest

import kernels
from kernels import build

ours = pytest.mark.skipif(not kernels.is_loaded(), reason="of our kernels, which are not loaded")


def python(code, **environment):
    """What a program prints in a process of its own; its exit code must be 0."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@ours
def test_avx2_is_chosen_at_load_and_right():
    code = """
import kernels
kernels.configure()
print(kernels.load().isa, kernels.set_bf16(True))
from kernels import check
print(max(check.largest_error(name, *shape) for name in check.CASES for shape in [(7, 37), (33, 64)]))
"""
    isa, bf16, error = python(code, ONEDNN_MAX_CPU_ISA="AVX2").split()
    assert (isa, bf16) == ("avx2", "False")
    assert float(error) < 1e-5


TRAIN = """
import numpy as np
import modeling, kernels
import oneflow as flow
from configs.model import BertConfig
config = BertConfig(vocab_size=37, hidden_size=15, num_hidden_layers=2, num_attention_heads=5, intermediate_size=19,
                    max_position_embeddings=13, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
model = modeling.BertForPreTraining(config)
optimizer = flow.optim.AdamW(model.parameters(), lr=1e-2)
rng = np.random.default_rng(0)
ids = flow.tensor(rng.integers(0, 37, (3, 11)).astype(np.int32))
mask = flow.tensor((np.arange(11) < [[11], [7], [9]]).astype(np.int32))
positions = flow.tensor(np.array([[1, 5], [2, 3], [4, 6]], np.int32))
labels = flow.tensor(rng.integers(0, 37, (3, 2)).astype(np.int32))
print(kernels.is_loaded())
for _ in range(12):
    loss = model(ids, mask, masked_lm_positions=positions, masked_lm_ids=labels)["total_loss"]
    loss.backward(); optimizer.step(); optimizer.zero_grad()
    print(loss.item())
"""


@ours
def test_training_is_the_same_on_stock_kernels():
    with_ours = python(TRAIN).split()
    without = python(TRAIN, ONEDNN_MAX_CPU_ISA="SSE41").split()
    assert (with_ours[0], without[0]) == ("True", "False")
    np.testing.assert_allclose(np.float64(with_ours[1:]), np.float64(without[1:]), rtol=1e-4)


def test_absent_kernels_say_why_in_one_line():
    code = "import kernels; kernels.configure(); print(kernels.set_bf16(True)); print(kernels.load().reason)"
    answers, reason = python(code, ONEDNN_MAX_CPU_ISA="SSE41").splitlines()
    assert answers == "False"
    assert "AVX2" in reason
    switched_off = code.replace("configure()", "configure(enabled=False)")
    assert "switched off" in python(switched_off).splitlines()[1]


def test_settings_respect_what_is_exported():
    code = "import kernels; print(kernels.configure()['OMP_NUM_THREADS'])"
    assert python(code, OMP_NUM_THREADS="3").strip() == "3"
    assert python(code.replace("configure()", "configure(5)")).strip() == "5"
    launched = {"LOCAL_RANK": "0", "WORLD_SIZE": "1000", "OMP_NUM_THREADS": "1"}
    assert python(code, **launched).strip() == "1"
    late = code.replace("import kernels", "import oneflow, kernels")  # changes nothing any more, and says so
    assert python(late.replace("configure()", "configure(5)"), OMP_NUM_THREADS="3").strip() == "3"


JOBS = """
import subprocess, sys
import modeling
import oneflow as flow

class Times(flow.nn.Graph):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def build(self, x):
        return x * self.factor

one, jobs = flow.ones(1), [Times(2.0), Times(3.0)]
busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
try:
    assert all(jobs[i % 2](one).item() == 2 + i % 2 for i in range(2500))
finally:
    busy.kill()
"""


@ours
def test_jobs_may_end_before_their_beginning_is_noted():
    """Left alone, OneFlow ends this program by a signal, or hangs, within some hundred jobs."""
    python(JOBS)


@ours
def test_profile_counts_ops():
    with kernels.profile() as report:
        for _ in range(3):
            flow._C.matmul(flow.ones(5, 7), flow.ones(7, 3))
    calls, seconds = report.ops["matmul"]
    assert calls == 3 and 0 < seconds <= report.wall_seconds
    assert "matmul" in report.table() and "everything else" in report.table()
    with kernels.profile() as report:
        pass
    assert report.ops == {}


def test_build_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(build, "fingerprint", lambda sanitize=False: "another source")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(build.BuildError, match="install g"):
        build.build()
    monkeypatch.setattr(build.platform, "machine", lambda: "aarch64")
    with pytest.raises(build.BuildError, match="aarch64"):
        build.build()
