"""Mixed precision, as far as it shows without CUDA."""

import oneflow as flow

from modeling.precision import half_precision, in_fp32, stored


def test_on_cuda_logits_leave_mixed_precision_before_the_loss(monkeypatch):
    class OnCuda:
        is_cuda = True

    kept = flow.tensor([1.5, -2.0]).to(flow.float16)
    monkeypatch.setattr(flow._C, "amp_black_identity", lambda x: kept)
    assert in_fp32(OnCuda()).dtype == flow.float32


def test_on_a_cpu_logits_stay_as_they_are():
    logits = flow.tensor([1.5, -2.0])
    assert in_fp32(logits) is logits


def test_outputs_in_half_precision_are_stored_in_fp32():
    half, whole = flow.tensor([1.5]).to(flow.float16), flow.tensor([7])
    assert stored(half).dtype == flow.float32 and stored(half).numpy().tolist() == [1.5]
    assert stored(whole) is whole


def test_half_precision_is_autocast_inside_the_block_only():
    with half_precision(True):
        assert flow.is_autocast_enabled() and flow.get_autocast_gpu_dtype() == flow.float16
        with half_precision(False):
            assert flow.is_autocast_enabled()
    assert not flow.is_autocast_enabled()
