"""CUDA devices, as far as they concern settings that precede the import of OneFlow."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

from utils.errors import UserError

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_TF32 = "ONEFLOW_EP_CUDA_ENABLE_TF32_EXECUTION"  # OneFlow's default is 1

# OneFlow 0.9.0 contains machine code for compute capabilities 6.0 to 8.6 and none that a driver could translate. Such
# code runs on later minor versions of the same major version, but not on another major version.
_MAJOR_VERSIONS = (6, 7, 8)


def show_only(devices: Sequence[int]) -> None:
    """Hide all other GPUs from this process, because OneFlow numbers a rank's GPU like the rank itself.

    Args:
        devices: indices among the visible devices, in the order of the local ranks; empty changes nothing.

    Raises:
        UserError: CUDA_VISIBLE_DEVICES does not contain that many devices.
    """
    if not devices:
        return
    visible = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",")] if _VISIBLE in os.environ else None
    if visible is None:
        chosen = [str(number) for number in devices]
    elif max(devices) < len(visible):
        chosen = [visible[number] for number in devices]
    else:
        raise UserError(
            f"--cuda_devices {','.join(map(str, devices))} selects among the devices in {_VISIBLE}="
            f"{','.join(visible)}: use indices below {len(visible)}."
        )
    os.environ[_VISIBLE] = ",".join(chosen)


def wants_cuda(device: str | None) -> bool | None:
    """Whether a device's name, such as "cuda:1", asks for CUDA; None without a name."""
    return None if device is None else device.startswith("cuda")


def driver_has_devices() -> bool:
    """Whether the CUDA driver finds a visible GPU. Works before OneFlow is imported, and does not import it."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return not driver.cuInit(0) and not driver.cuDeviceGetCount(ctypes.byref(count)) and count.value > 0


def disable_tf32() -> None:
    """Compute fp32 products with all bits of fp32; call it before OneFlow is imported."""
    os.environ[_TF32] = "0"


def tf32_is_enabled() -> bool:
    """Whether GPUs from compute capability 8.0 on round the operands of fp32 products to TF32, which has 10 bits."""
    return os.environ.get(_TF32, "1").lower() in ("1", "true", "yes", "on", "y")


def check_capability(number: int) -> None:
    """Check that OneFlow has code for a GPU.

    Args:
        number: the index of a visible device.

    Raises:
        UserError: the device's compute capability is not supported.
    """
    import oneflow as flow

    major, minor = flow.cuda.get_device_capability(number)
    if major not in _MAJOR_VERSIONS:
        raise UserError(
            f"GPU {number} ({flow.cuda.get_device_name(number)}) has compute capability {major}.{minor}, but OneFlow "
            "0.9.0 only has code for 6.0 to 8.9: use such a GPU, or --device cpu."
        )
