"""CUDA devices that OneFlow can use. The devices are fakes, so that the tests need no GPU."""

import oneflow as flow
import pytest

from configs.training import DeviceFlags
from inference.model import _device
from kernels.cuda import check_capability
from training.distributed import join
from utils.errors import UserError


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
