"""Loads the compiled kernels and speaks to them."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels import build, settings

# What each build needs of the CPU, best first.
NEEDED_FEATURES = {
    "avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx2", "fma"},
    "avx2": {"avx2", "fma"},
}
# oneDNN's switch also limits what we choose: each of its names and how far it reaches.
ISA_LIMITS = ["SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"]
ISA_LIMITS += ["AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16", "ALL", "DEFAULT"]
SHOWN_FEATURES = ["avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"]
ONEDNN_VERSION = 302  # 3.2


@dataclass(frozen=True)
class Status:
    """Whether the kernels are at work; `reason` says in one line which they are, or what is missing."""

    loaded: bool
    reason: str
    isa: str = ""
    cpu_features: tuple[str, ...] = ()
    bf16: bool = False  # whether the CPU multiplies bf16 numbers
    int8: bool = False  # whether it adds products of 8-bit numbers to 32-bit sums, so that none saturates


@functools.cache
def load() -> Status:
    """Registers the kernels with OneFlow, once, and gives compiled graphs one stream of them.

    Never raises: without the kernels everything runs on stock ones, slower.
    """
    features = _cpu_features()
    shown = tuple(name for name in SHOWN_FEATURES if name in features)

    def without(reason: str) -> Status:
        return Status(False, f"stock CPU kernels, several times slower: {reason}", cpu_features=shown)

    if not settings.enabled_by_caller:
        return without("ours are switched off")
    if platform.machine() != "x86_64":
        return without(f"ours are written for x86-64, and this is {platform.machine()}")
    isa = next((name for name, needed in NEEDED_FEATURES.items() if needed <= features and _allowed(name)), None)
    if isa is None:
        return without("ours need a CPU with AVX2 and FMA (and ONEDNN_MAX_CPU_ISA to allow it)")
    if build.oneflow_version() != build.ONEFLOW_VERSION:
        return without(f"ours are made for OneFlow {build.ONEFLOW_VERSION}; `make setup` installs it")
    if not build.is_current():
        return without("ours are not built from this source yet; `python -m kernels build` does it, given g++")
    try:
        library = _open(build.LIB / f"kernels_{isa}.so")
    except OSError as error:
        return without(f"{error}; `python -m kernels build` builds ours anew")
    if library.kernels_onednn_version() != ONEDNN_VERSION:
        return without("another version of oneDNN answers; `make setup` installs the right one")
    settings.configure_graph()
    bf16 = bool({"avx512_bf16", "amx_bf16"} & features) and isa == "avx512" and _allowed("bf16")
    threads = os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    what = f"own CPU kernels for {isa}{' with bf16' if bf16 else ''}, oneDNN 3.2, {threads} threads"
    vnni = {"avx512": "avx512_vnni", "avx2": "avx_vnni"}[isa]
    return Status(True, what, isa, shown, bf16, int8=vnni in features and _allowed(vnni))


def is_loaded() -> bool:
    """Whether the kernels are at work (loads them if that has not been tried yet)."""
    return load().loaded


def set_bf16(on: bool) -> bool:
    """Matrix products with bf16 operands and float32 sums, inputs and outputs, where the CPU has them.

    Returns:
        Whether they are on now.
    """
    status = load()
    if not status.loaded:
        return False
    library().kernels_set_bf16(int(on and status.bf16))
    return on and status.bf16


def hold_weights(weights: Iterable[Any]) -> Callable[[], None]:
    """Lets products in bf16 mode keep these matrices in the precision and layout they want, at half their size.

    Args:
        weights: OneFlow tensors on the CPU that nobody writes to from now on; those of other ranks than 2 are left out.

    Returns:
        a function that ends it, to be called before they are written to.
    """
    if not is_loaded():
        return lambda: None
    arrays = [tensor.numpy() for tensor in weights if tensor.dim() == 2]  # views, which keep the memory alive
    for array in arrays:
        library().kernels_hold_weights(array.ctypes.data)

    def release() -> None:
        while arrays:
            library().kernels_release_weights(arrays.pop().ctypes.data)

    return release


def begin_dropout_step(run_seed: int, rank: int, step: int) -> None:
    """Begins an optimizer step: call it once before the step's first forward pass, in either mode. Every mask is then
    a function of the run's seed, the step, the layer, the forward pass within the step, and the element.

    Args:
        run_seed: any integer.
        rank: this process's number where each process holds its own equal part of the batch (data parallel in eager
            mode); the ranks' masks are then the parts of one whole. Global tensors know their part by themselves.
        step: its number.
    """
    if is_loaded():
        wait_for_kernels()
        library().kernels_begin_dropout_step(run_seed % 2**64, rank, step)


def last_gradient_norm() -> float | None:
    """The global gradient norm that the last step of a compiled job clipped by, once its outputs have been read; None
    without our kernels, or where nothing is clipped."""
    if not is_loaded():
        return None
    wait_for_kernels()
    squared = library().kernels_last_power_sum()
    return None if squared < 0 else math.sqrt(squared)


def wait_for_kernels() -> None:
    """Kernels run behind Python's back; those of the last step must have drawn their masks before the step changes."""
    import oneflow as flow

    flow._oneflow_internal.eager.Sync()


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded kernels' own functions."""
    library = ctypes.CDLL(str(build.LIB / f"kernels_{load().isa}.so"))
    library.kernels_begin_dropout_step.argtypes = [ctypes.c_uint64, ctypes.c_int64, ctypes.c_uint64]
    library.kernels_hold_weights.argtypes = library.kernels_release_weights.argtypes = [ctypes.c_void_p]
    library.kernels_last_power_sum.restype = ctypes.c_double
    library.kernels_philox.argtypes = [ctypes.c_uint64] * 3 + [ctypes.POINTER(ctypes.c_uint32)]
    return library


def _open(path: Path) -> ctypes.CDLL:
    """Loading the library registers its kernels; OneFlow, and the right oneDNN, must be there before."""
    import oneflow  # noqa: F401

    ctypes.CDLL(str(build.ENVIRONMENT / "lib" / "libdnnl.so.3"))
    return ctypes.CDLL(str(path))


def _cpu_features() -> set[str]:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.split(":", 1)[1].split())
    except OSError:
        pass
    return set()


def _allowed(isa: str) -> bool:
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    if limit not in ISA_LIMITS:
        return True
    needed = {
        "avx2": "AVX2",
        "avx_vnni": "AVX2_VNNI",
        "avx512": "AVX512_CORE",
        "avx512_vnni": "AVX512_CORE_VNNI",
        "bf16": "AVX512_CORE_BF16",
    }[isa]
    return ISA_LIMITS.index(limit) >= ISA_LIMITS.index(needed)
