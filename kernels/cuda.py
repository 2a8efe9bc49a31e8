"""CUDA devices, as far as they concern settings that precede the import of OneFlow."""

from __future__ import annotations

from utils.errors import UserError

# OneFlow 0.9.0 contains machine code for compute capabilities 6.0 to 8.6 and none that a driver could translate. Such
# code runs on later minor versions of the same major version, but not on another major version.
_MAJOR_VERSIONS = (6, 7, 8)


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
