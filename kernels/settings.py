"""Thread settings, which affect the speed as much as the kernels do.

Most are environment variables that libraries read once when they are loaded, so they are set before OneFlow is
imported.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence

from kernels import build
from kernels.cuda import disable_tf32, driver_has_devices, show_only

# A waiting OpenMP thread spins this many times, up to half a millisecond, before it sleeps. With a tenth of that, many
# kernels include a wake-up (a quarter of the time of one text through BERT-base in bf16). The default of many
# milliseconds starves other processes on two cores.
SPIN_COUNT = "10000"

_NAMES = ("OMP_NUM_THREADS", "ONEFLOW_VM_COMPUTE_ON_WORKER_THREAD", "GOMP_SPINCOUNT")
enabled_by_caller = True
preloaded: ctypes.CDLL | None = None  # kernels/src/preload
_settings: dict[str, str] | None = None  # the result of the first configure()


def configure(
    threads: int | None = None,
    enabled: bool = True,
    gpus: Sequence[int] = (),
    on_cuda: bool | None = False,
    tf32: bool = True,
) -> dict[str, str]:
    """Set the environment variables that OneFlow and OpenMP read at startup; call it before `import oneflow`.

    Also loads the library that changes how OneFlow runs compiled jobs (kernels/src/preload), if it is built. Variables
    that are already set are not changed, except OMP_NUM_THREADS=1, which OneFlow's launcher sets. On CUDA, only the
    given number of threads and TF32 are set and no kernels are loaded, because these make OneFlow wait for the device
    at each step. Only the first call has an effect.

    Args:
        threads: kernel threads per process (default: the host's cores divided by its number of ranks).
        enabled: False keeps OneFlow's stock kernels.
        gpus: the indices of the GPUs to use; see `kernels.cuda.show_only`.
        on_cuda: whether the process computes on CUDA; None if it does so on a host with a GPU.
        tf32: False keeps OneFlow from computing fp32 products in TF32 on CUDA.

    Returns:
        The settings in effect, for the log.

    Raises:
        UserError: a GPU is not visible.
    """
    global _settings, enabled_by_caller
    if _settings is None:
        enabled_by_caller = enabled
        if "oneflow" in sys.modules:  # too late: OneFlow has already read its environment
            _settings = {name: os.environ.get(name, "unset") for name in _NAMES}
            return _settings
        show_only(gpus)
        if driver_has_devices() if on_cuda is None else on_cuda:
            enabled_by_caller = False
            if not tf32:
                disable_tf32()
            os.environ.update({"OMP_NUM_THREADS": str(threads)} if threads else {})
            _settings = {}
        else:
            _settings = _configure_cpu(threads, enabled)
    return _settings


def _configure_cpu(threads: int | None, enabled: bool) -> dict[str, str]:
    global preloaded
    launched = "LOCAL_RANK" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1"
    if threads is not None or launched:
        os.environ["OMP_NUM_THREADS"] = str(threads or _fair_share())
    # "0" for the second: with a separate worker thread, OneFlow's scheduler spins and occupies a core.
    for name, value in zip(_NAMES, (str(_fair_share()), "0", SPIN_COUNT), strict=True):
        os.environ.setdefault(name, value)
    if enabled and build.is_current():
        preloaded = ctypes.CDLL(str(build.LIB / "job_queue.so"), mode=ctypes.RTLD_GLOBAL)
    return {name: os.environ[name] for name in _NAMES}


def import_oneflow() -> None:
    """Import OneFlow without its startup messages about missing GPUs and network cards.

    If GLOG_minloglevel is set, the messages are shown.
    """
    if "oneflow" in sys.modules or "GLOG_minloglevel" in os.environ:
        return
    os.environ["GLOG_minloglevel"] = "3"  # fatal errors only
    saved, silence = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)  # libibverbs writes to standard error directly
    try:
        import oneflow  # noqa: F401
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(silence)


def configure_graph() -> None:
    """Run the CPU kernels of compiled graphs in a single stream; call it before the first graph is compiled.

    By default OneFlow distributes a graph's kernels over one thread per core, and each thread starts a separate
    OpenMP team. With several streams, the order of accumulated sums also varies between runs.
    """
    import oneflow as flow

    session = flow.framework.session_context.GetDefaultSession()
    session.TryInit()
    resource = session.resource
    resource.cpu_device_num = 1
    session.update_resource_eagerly(resource)


def _fair_share() -> int:
    """Cores per rank on this host, at least one. If the number of local ranks is unknown, all ranks count as local."""
    launched = "LOCAL_RANK" in os.environ
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE", "1")) if launched else 1
    return max(1, len(os.sched_getaffinity(0)) // ranks)
