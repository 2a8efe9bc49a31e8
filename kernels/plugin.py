"""Loads the compiled kernels and calls their C functions."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernels import build, settings

# The CPU features that each build needs, fastest build first.
NEEDED_FEATURES = {
    "avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx2", "fma"},
    "avx2": {"avx2", "fma"},
}
# Values of oneDNN's variable ONEDNN_MAX_CPU_ISA in ascending order. The variable also limits the choice made here.
ISA_LIMITS = ["SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"]
ISA_LIMITS += ["AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16", "ALL", "DEFAULT"]
SHOWN_FEATURES = ["avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"]
ONEDNN_VERSION = 302  # 3.2


@dataclass(frozen=True)
class Status:
    """Whether the kernels are loaded. `reason` is one line for the log: which kernels run, or why these do not."""

    loaded: bool
    reason: str
    isa: str = ""
    cpu_features: tuple[str, ...] = ()
    bf16: bool = False  # whether the CPU multiplies bf16 numbers
    int8: bool = False  # whether the CPU adds 8-bit products to 32-bit sums, which cannot saturate


@functools.cache
def load() -> Status:
    """Register the kernels with OneFlow and configure compiled graphs for them. Later calls return the same status.

    Never raises: if the kernels cannot be loaded, OneFlow's slower stock kernels stay in place.
    """
    features = _cpu_features()
    shown = tuple(name for name in SHOWN_FEATURES if name in features)

    def without(reason: str) -> Status:
        return Status(False, f"stock CPU kernels, several times slower: {reason}", cpu_features=shown)

    if not settings.enabled_by_caller:
        return without("this project's kernels are disabled")
    if platform.machine() != "x86_64":
        return without(f"this project's kernels need x86-64, but this is {platform.machine()}")
    isa = next((name for name, needed in NEEDED_FEATURES.items() if needed <= features and _allowed(name)), None)
    if isa is None:
        return without("this project's kernels need a CPU with AVX2 and FMA, and ONEDNN_MAX_CPU_ISA must allow them")
    if build.oneflow_version() != build.ONEFLOW_VERSION:
        return without(f"this project's kernels need OneFlow {build.ONEFLOW_VERSION}; `make setup` installs it")
    if not build.is_current():
        return without("this project's kernels are not built; `python -m kernels build` builds them (needs g++)")
    try:
        library = _open(build.LIB / f"kernels_{isa}.so")
    except OSError as error:
        return without(f"{error}; delete kernels/lib and run `python -m kernels build`")
    if library.kernels_onednn_version() != ONEDNN_VERSION:
        return without("the loaded oneDNN is not version 3.2; `make setup` installs it")
    settings.configure_graph()
    _plan_memory(library, on=True)
    bf16 = bool({"avx512_bf16", "amx_bf16"} & features) and isa == "avx512" and _allowed("bf16")
    threads = os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    what = f"own CPU kernels for {isa}{' with bf16' if bf16 else ''}, oneDNN 3.2, {threads} threads"
    vnni = {"avx512": "avx512_vnni", "avx2": "avx_vnni"}[isa]
    return Status(True, what, isa, shown, bf16, int8=vnni in features and _allowed(vnni))


def is_loaded() -> bool:
    """Whether the kernels are loaded. The first call tries to load them."""
    return load().loaded


def set_bf16(on: bool) -> bool:
    """Switch bf16 matrix products on or off: operands are rounded to bf16; sums, inputs and outputs stay float32.

    Returns:
        Whether they are now on. They stay off if the CPU has no bf16 matrix instructions.
    """
    status = load()
    if not status.loaded:
        return False
    library().kernels_set_bf16(int(on and status.bf16))
    return on and status.bf16


def bf16_is_on() -> bool:
    """Whether matrix products round their operands to bf16."""
    return is_loaded() and bool(library().kernels_bf16())


def hold_weights(weights: Iterable[Any]) -> Callable[[], None]:
    """Let bf16 products cache these matrices in bf16, in oneDNN's preferred layout; the copy has half their size.

    Args:
        weights: OneFlow tensors on the CPU that are not modified until released; only those with 2 axes are cached.

    Returns:
        A function that releases the weights; call it before modifying them.
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


def call_attention(
    op: int, tensors: Sequence[Any], heads: int, reach: int, slopes: Sequence[float], rate: float, seed: int
) -> list[Any]:
    """Call one of attention's ops (kernels/src/attention_op.cpp) on OneFlow tensors, in either mode.

    Args:
        op: 0 for attention, 1 for its gradient.
        tensors: the op's inputs in order.
        heads: attention heads.
        reach: how many positions a token sees to both sides; -1 for all.
        slopes: ALiBi's, one of each head, or none.
        rate: of dropout.
        seed: the number of the dropout call, and in its high half that of the forward pass.

    Returns:
        The op's three outputs.

    Raises:
        RuntimeError: OneFlow rejects the call, after it has printed why.
    """
    inputs = (ctypes.c_void_p * len(tensors))(*map(id, tensors))
    outputs = (ctypes.c_void_p * 3)()
    given = (ctypes.c_float * heads)(*slopes) if slopes else None
    if not _attention()(op, inputs, heads, reach, given, rate, seed, _tensor_maker(), outputs):
        raise RuntimeError("attention failed; the message above says why")
    # `cast` counts one reference of its own, and the tensor comes with one.
    found = [ctypes.cast(output or 0, ctypes.py_object).value for output in outputs]
    for tensor in found:
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(tensor))
    return found


@functools.cache
def _attention() -> Any:
    """The function that calls attention's ops. It keeps the interpreter's lock, because it makes Python objects."""
    function = ctypes.PyDLL(str(build.LIB / f"kernels_{load().isa}.so")).kernels_attention
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    function.argtypes = [ctypes.c_int, pointer, integer, integer, pointer, ctypes.c_float, integer, pointer, pointer]
    return function


@functools.cache
def _tensor_maker() -> int:
    """The address of OneFlow's function that makes a Python tensor."""
    import oneflow

    internal = ctypes.CDLL(oneflow._oneflow_internal.__file__)
    maker = internal._ZN7oneflow3one12PyTensor_NewERKSt10shared_ptrINS0_6TensorEE
    return ctypes.cast(maker, ctypes.c_void_p).value or 0


def share_memory_in_graphs(on: bool) -> None:
    """Let the tensors of graphs that are compiled from now on share memory (the default), or give each its own."""
    if is_loaded():
        _plan_memory(library(), on)


def begin_dropout_step(run_seed: int, rank: int, step: int) -> None:
    """Begin an optimizer step; call it once before the step's first forward pass, in either mode.

    Every mask is then a function of the run's seed, the step, the layer, the forward pass within the step, and the
    element.

    Args:
        run_seed: any integer.
        rank: this process's rank in eager data parallelism, where each rank has an equal part of the batch and draws
            the matching part of the batch's masks. Not needed for global tensors, whose parts OneFlow knows.
        step: the number of the optimizer step.
    """
    if is_loaded():
        wait_for_kernels()
        library().kernels_begin_dropout_step(run_seed % 2**64, rank, step)


def last_gradient_norm(divided: float = 0.0) -> float | None:
    """The global gradient norm that gradient clipping computed in the last step of a compiled job.

    Call it after reading the step's outputs. None without these kernels or without clipping.

    Args:
        divided: the result of `finish_divided_updates`.
    """
    if not is_loaded():
        return None
    wait_for_kernels()
    squared = library().kernels_last_power_sum()
    return None if squared < 0 else math.sqrt(squared + divided)


def finish_divided_updates(add_up: Callable[[list[float]], Iterable[float]]) -> float:
    """Finish the update of a compiled job whose parameters the ranks of a replica divide (--tensor_parallel).

    LAMB's trust ratio depends on the norms of whole parameters, so these updates wait for the other ranks' parts.

    Args:
        add_up: adds up a list of numbers over the ranks of a replica; all of them call it.

    Returns:
        The squared norm of the gradients of these parameters; 0 without clipping.
    """
    wait_for_kernels()
    count = library().kernels_pending_squares(None)
    parts = (ctypes.c_double * (2 * count))()
    library().kernels_pending_squares(parts)
    gradients, *squares = add_up([library().kernels_take_divided_power_sum(), *parts])
    library().kernels_finish_updates((ctypes.c_double * (2 * count))(*squares))
    return gradients


def watch_gradient_norms() -> None:
    """Begin a run: reset the gradient norms of compiled jobs, and the limit above which updates are skipped."""
    if is_loaded():
        wait_for_kernels()
        library().kernels_watch_gradient_norms()


def leave_out_updates_above(limit: float) -> None:
    """Let compiled jobs skip updates whose gradient norm is above `limit`; needs these kernels and clipping."""
    library().kernels_set_norm_limit(limit)


def gradient_norms_are_finite() -> bool:
    """Whether all gradient norms of compiled jobs since `watch_gradient_norms` are finite; True without kernels."""
    if not is_loaded():
        return True
    wait_for_kernels()
    return bool(library().kernels_norms_are_finite())


def wait_for_kernels() -> None:
    """Wait until all pending kernels have run: OneFlow runs them asynchronously, and they read and write C state."""
    import oneflow as flow

    flow._oneflow_internal.eager.Sync()


@functools.cache
def library() -> ctypes.CDLL:
    """The C functions of the loaded kernels."""
    library = ctypes.CDLL(str(build.LIB / f"kernels_{load().isa}.so"))
    library.kernels_begin_dropout_step.argtypes = [ctypes.c_uint64, ctypes.c_int64, ctypes.c_uint64]
    library.kernels_hold_weights.argtypes = library.kernels_release_weights.argtypes = [ctypes.c_void_p]
    library.kernels_last_power_sum.restype = library.kernels_take_divided_power_sum.restype = ctypes.c_double
    library.kernels_pending_squares.restype = ctypes.c_int64
    library.kernels_set_norm_limit.argtypes = [ctypes.c_double]
    library.kernels_philox.argtypes = [ctypes.c_uint64] * 3 + [ctypes.POINTER(ctypes.c_uint32)]
    return library


def _plan_memory(library: ctypes.CDLL, on: bool) -> None:
    if settings.preloaded is not None:
        settings.preloaded.set_memory_planner(library.kernels_plan_memory if on else None)


def _open(path: Path) -> ctypes.CDLL:
    """Load the library, which registers its kernels. OneFlow and the right version of oneDNN must be loaded first."""
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
