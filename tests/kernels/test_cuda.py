"""CUDA devices that OneFlow can use. The devices are fakes, so that the tests need no GPU."""

import os
from pathlib import Path

import oneflow as flow
import pytest

from configs.training import DeviceFlags
from inference import load
from inference.model import _device
from kernels import cuda
from kernels.cuda import check_capability, driver_has_devices, show_only
from tests.programs import run_python
from training.distributed import join
from utils.errors import UserError

MODEL = Path(__file__).parents[1] / "fixtures" / "huggingface" / "pretraining"


@pytest.fixture
def gpus(monkeypatch):
    """A function that fakes usable GPUs of these compute capabilities."""

    def fake(*capabilities):
        monkeypatch.setattr(flow.cuda, "is_available", lambda: bool(capabilities))
        monkeypatch.setattr(flow.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(flow.cuda, "get_device_capability", lambda number: capabilities[number])
        monkeypatch.setattr(flow.cuda, "get_device_name", lambda number: "H100")

    return fake


@pytest.mark.parametrize("capability", [(6, 0), (6, 1), (7, 0), (7, 5), (8, 0), (8, 6), (8, 9)])
def test_gpus_with_code_in_oneflow_are_accepted(gpus, capability):
    gpus(capability)
    check_capability(0)
    assert join(DeviceFlags()).device == "cuda:0" and _device(None) == "cuda" and _device("cuda:0") == "cuda:0"


@pytest.mark.parametrize("capability", [(3, 5), (5, 2), (9, 0), (10, 0), (12, 0)])
def test_gpus_without_code_in_oneflow_are_refused(gpus, capability):
    gpus(capability)
    message = rf"GPU 0 \(H100\) has compute capability {capability[0]}.{capability[1]}, .* 6.0 to 8.9: .*--device cpu"
    for use in (lambda: join(DeviceFlags()), lambda: join(DeviceFlags(device="cuda")), lambda: _device(None)):
        with pytest.raises(UserError, match=message):
            use()
    assert join(DeviceFlags(device="cpu")).device == "cpu" and _device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("visible", "devices", "left"),
    [(None, (), None), ("5,7", (), "5,7"), (None, (2, 3), "2,3"), ("4,5,GPU-3f", (2, 0), "GPU-3f,4"), ("6", (0,), "6")],
)
def test_a_rank_only_sees_the_selected_devices(monkeypatch, visible, devices, left):
    monkeypatch.setattr(os, "environ", {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    show_only(devices)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == left


def test_a_device_beyond_the_visible_ones_is_refused(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(UserError, match=r"--cuda_devices 0,2 .* CUDA_VISIBLE_DEVICES=4,5: use indices below 2"):
        show_only((0, 2))


def test_devices_are_selected_before_oneflow_is_imported():
    code = "import os, kernels; kernels.configure(gpus=(3, 2)); print(os.environ['CUDA_VISIBLE_DEVICES'])"
    assert run_python(code, CUDA_VISIBLE_DEVICES="4,5,6,7").strip() == "7,6"


def test_each_local_rank_uses_the_visible_device_of_its_number(gpus, monkeypatch):
    gpus((8, 0), (8, 6))
    for local_rank in (0, 1):
        monkeypatch.setattr(flow.env, "get_local_rank", lambda number=local_rank: number)
        assert join(DeviceFlags(cuda_devices=(2, 3))).device == f"cuda:{local_rank}"
    monkeypatch.setattr(flow.env, "get_local_rank", lambda: 2)
    for flags, named in (
        (DeviceFlags(cuda_devices=(2, 3)), "--cuda_devices 2,3 has"),
        (DeviceFlags(), "this host has"),
    ):
        with pytest.raises(UserError, match=f"{named} 2 usable GPUs, and local rank 2 has none"):
            join(flags)


@pytest.mark.parametrize("devices", [(1, 1), (-1,)])
def test_a_list_of_devices_contains_each_index_once(devices):
    with pytest.raises(UserError, match="--cuda_devices"):
        DeviceFlags(cuda_devices=devices)


def test_settings_of_cpus_stay_out_of_runs_on_cuda():
    code = """
import os
import kernels
{prepare}
print(kernels.configure(threads={threads}, on_cuda={on_cuda}))
print([os.environ.get(n) for n in ("OMP_NUM_THREADS", "ONEFLOW_VM_COMPUTE_ON_WORKER_THREAD", "GOMP_SPINCOUNT")])
print(kernels.settings.preloaded is None, kernels.is_loaded())
"""
    nothing = {name: "" for name in ("OMP_NUM_THREADS", "ONEFLOW_VM_COMPUTE_ON_WORKER_THREAD", "GOMP_SPINCOUNT")}
    clear = f"for name in {list(nothing)}: os.environ.pop(name, None)"
    found = "kernels.settings.driver_has_devices = lambda: True"
    for threads, on_cuda, prepare in ((None, True, clear), (3, None, f"{clear}\n{found}")):
        lines = run_python(code.format(prepare=prepare, threads=threads, on_cuda=on_cuda)).splitlines()
        assert lines == ["{}", str([threads and str(threads), None, None]), "True False"]


def test_a_host_without_a_driver_has_no_devices(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(cuda.ctypes, "CDLL", missing)
    assert not driver_has_devices()


def test_a_gpu_that_oneflow_cannot_use_is_an_error_unless_the_cpu_is_requested(gpus, monkeypatch):
    gpus()
    monkeypatch.setattr("training.distributed.driver_has_devices", lambda: True)
    with pytest.raises(UserError, match="a GPU that OneFlow cannot use: update its driver, or pass --device cpu"):
        join(DeviceFlags())
    assert join(DeviceFlags(with_cuda=False)).device == "cpu"


@pytest.mark.parametrize(("flags", "expected"), [("", "None True"), ("tf32=False", "0 False")])
def test_tf32_is_switched_off_before_oneflow_is_imported(flags, expected):
    name = "ONEFLOW_EP_CUDA_ENABLE_TF32_EXECUTION"
    code = f"""
import os, kernels
from kernels.cuda import tf32_is_enabled
from configs.training import DeviceFlags
os.environ.pop("{name}", None)
kernels.configure(**DeviceFlags(device="cuda", {flags}).framework_settings())
print(os.environ.get("{name}"), tf32_is_enabled())
"""
    assert run_python(code).strip() == expected


def test_inference_in_graph_mode_only_works_on_the_first_visible_gpu(gpus):
    gpus((8, 0), (8, 0))
    with pytest.raises(UserError, match=r"cuda:1 only works in eager mode: .* CUDA_VISIBLE_DEVICES=1 and use cuda"):
        load(MODEL, device="cuda:1")
