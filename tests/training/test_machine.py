"""The kernels and the precision of a run."""

from types import SimpleNamespace

import pytest

import kernels
from configs.training import DeviceFlags
from launch.job_shape import JobShape
from training.distributed import World
from training.machine import check_same_kernels, describe_machine, profiled, use_half_precision

CPU, CUDA = World(JobShape(), "cpu"), World(JobShape(), "cuda:0")


def test_half_precision_is_bf16_on_a_cpu_that_has_it(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(kernels, "set_bf16", lambda on: asked.append(on) or True)
    assert not use_half_precision(CPU, DeviceFlags()) and not use_half_precision(CUDA, DeviceFlags(use_fp16=True))
    assert asked == []
    assert use_half_precision(CPU, DeviceFlags(use_fp16=True)) and asked == [True]
    monkeypatch.setattr(kernels, "set_bf16", lambda on: False)
    assert not use_half_precision(CPU, DeviceFlags(use_fp16=True))
    assert "--use_fp16 has no effect" in capsys.readouterr().err


def test_the_description_names_the_products():
    assert "; bf16 products with fp32 sums; " in describe_machine(CPU, DeviceFlags(), True)
    assert "; fp32 products; " in describe_machine(CPU, DeviceFlags(), False)


@pytest.mark.parametrize(
    ("tf32", "use_fp16", "products"),
    [
        (None, False, "fp32 products; TF32 on"),
        ("0", False, "fp32 products; TF32 off"),
        ("1", True, "fp16 products; TF32 on"),
    ],
)
def test_on_cuda_the_description_names_products_and_tf32(monkeypatch, tf32, use_fp16, products):
    monkeypatch.delenv("ONEFLOW_EP_CUDA_ENABLE_TF32_EXECUTION", raising=False)
    if tf32:
        monkeypatch.setenv("ONEFLOW_EP_CUDA_ENABLE_TF32_EXECUTION", tf32)
    assert describe_machine(CUDA, DeviceFlags(use_fp16=use_fp16), False) == f"OneFlow's CUDA kernels; {products}"


def test_one_rank_has_its_own_kernels():
    check_same_kernels(CPU)


def test_a_profile_is_printed_only_if_asked_for(monkeypatch):
    lines = []
    with profiled(DeviceFlags(), SimpleNamespace(say=lines.append)):
        pass
    assert lines == []
