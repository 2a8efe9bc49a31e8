"""Loading the kernels, and running without them."""

import numpy as np
import oneflow as flow
import pytest

import kernels
from kernels import build, plugin
from tests.programs import run_python

ours = pytest.mark.skipif(not kernels.is_loaded(), reason="needs this project's kernels, which are not loaded")
LOAD = "import kernels; kernels.configure(); print(kernels.load().loaded); print(kernels.load().reason)"


@ours
def test_a_limit_on_the_instruction_set_selects_the_avx2_build_which_agrees_with_numpy():
    code = """
import kernels
kernels.configure()
print(kernels.load().isa, kernels.set_bf16(True))
from kernels import check
print(max(check.largest_error(name, *shape) for name in check.CASES for shape in [(7, 37), (33, 64)]))
"""
    isa, bf16, error = run_python(code, ONEDNN_MAX_CPU_ISA="AVX2").split()
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
def test_training_has_the_same_losses_on_stock_kernels():
    with_ours = run_python(TRAIN).split()
    without = run_python(TRAIN, ONEDNN_MAX_CPU_ISA="SSE41").split()
    assert (with_ours[0], without[0]) == ("True", "False")
    np.testing.assert_allclose(np.float64(with_ours[1:]), np.float64(without[1:]), rtol=1e-4)


def test_one_line_says_why_the_kernels_are_not_loaded():
    loaded, reason = run_python(LOAD, ONEDNN_MAX_CPU_ISA="SSE41").splitlines()
    assert loaded == "False"
    assert reason.startswith("stock CPU kernels") and "AVX2" in reason
    assert "disabled" in run_python(LOAD.replace("configure()", "configure(enabled=False)")).splitlines()[1]


@pytest.mark.parametrize(
    ("module", "name", "value", "words"),
    [
        (plugin.platform, "machine", lambda: "aarch64", "need x86-64, but this is aarch64"),
        (plugin, "_cpu_features", lambda: {"avx", "sse4_1"}, "need a CPU with AVX2"),
        (build, "oneflow_version", lambda: "0.8.0", "need OneFlow 0.9.0"),
        (build, "is_current", lambda: False, "not built"),
    ],
)
def test_every_obstacle_is_named(monkeypatch, module, name, value, words):
    monkeypatch.setattr(plugin, "_cpu_features", lambda: {"avx2", "fma"})
    monkeypatch.setattr(build, "is_current", lambda: True)
    monkeypatch.setattr(module, name, value)
    status = plugin.load.__wrapped__()
    assert not status.loaded
    assert words in status.reason


@pytest.mark.parametrize(
    ("limit", "allowed"),
    [
        (None, {"avx2", "avx512", "bf16"}),
        ("SSE41", set()),
        ("AVX2", {"avx2"}),
        ("avx512_core", {"avx2", "avx512"}),
        ("AVX512_CORE_AMX", {"avx2", "avx512", "bf16"}),
        ("unknown", {"avx2", "avx512", "bf16"}),
    ],
)
def test_onednns_limit_applies_to_the_kernels(monkeypatch, limit, allowed):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert {isa for isa in ("avx2", "avx512", "bf16") if plugin._allowed(isa)} == allowed


@ours
def test_the_gradient_norm_of_a_compiled_job_can_be_read():
    class Train(flow.nn.Graph):
        def __init__(self, model):
            super().__init__()
            self.model = model
            groups = [{"params": list(model.parameters()), "lr": 0.1, "clip_grad_max_norm": 1.0}]
            groups[0]["clip_grad_norm_type"] = 2.0
            self.add_optimizer(flow.optim.SGD(groups, lr=0.1))

        def build(self, x):
            loss = self.model(x).sum()
            loss.backward()
            return loss

    model, x = flow.nn.Linear(5, 3), np.random.default_rng(0).standard_normal((7, 5), np.float32)
    Train(model)(flow.tensor(x)).numpy()
    gradient = np.concatenate([np.tile(x.sum(0), 3), np.full(3, 7)])  # of the weight and of the bias
    assert kernels.last_gradient_norm() == pytest.approx(np.linalg.norm(gradient), rel=1e-5)


def test_without_kernels_there_is_nothing_to_hold_or_read(monkeypatch):
    monkeypatch.setattr(plugin, "is_loaded", lambda: False)
    assert kernels.last_gradient_norm() is None
    kernels.hold_weights([flow.ones(7, 5)])()
    kernels.begin_dropout_step(1, 0, 0)
    with kernels.profile() as report:
        pass
    assert report.ops == {} and report.wall_seconds > 0


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
    assert all(jobs[i % 2](one).item() == 2 + i % 2 for i in range(1000))
finally:
    busy.kill()
"""


@ours
def test_jobs_may_end_before_oneflow_has_queued_them():
    """Without kernels/src/preload, this program crashes or hangs within a few hundred jobs."""
    run_python(JOBS)
