"""Settings that matter as much as kernels do. Most are read once, when a library is loaded: hence before OneFlow."""

from __future__ import annotations

import ctypes
import os
import sys

from kernels import build

# A thread that waits for the others of its team spins this many times, half a millisecond at most, before it sleeps.
# A tenth of it costs a wake-up for many kernels (a quarter of the time of one text through BERT-base in bf16); the
# default, many milliseconds, starves whatever else runs on two cores.
SPIN_COUNT = "10000"

_NAMES = ("OMP_NUM_THREADS", "ONEFLOW_VM_COMPUTE_ON_WORKER_THREAD", "GOMP_SPINCOUNT")
enabled_by_caller = True
_settings: dict[str, str] | None = None  # of the first configure()


def configure(threads: int | None = None, enabled: bool = True) -> dict[str, str]:
    """Sets what OneFlow and OpenMP read from the environment as they start, and loads what mends OneFlow's count of
    compiled jobs (kernels/src/preload) where that is built; call it before `import oneflow`.

    What is exported already stays, except for the one thread per process that OneFlow's launcher chooses by itself.
    The first call decides; later ones change nothing.

    Args:
        threads: threads for each process's kernels (default: this host's cores shared out between its processes).
        enabled: False leaves everything on stock kernels.

    Returns:
        The settings in force, for the log.
    """
    global _settings, enabled_by_caller
    if _settings is None:
        enabled_by_caller = enabled
        if "oneflow" in sys.modules:  # too late: it has read what it reads
            _settings = {name: os.environ.get(name, "unset") for name in _NAMES}
            return _settings
        launched = "LOCAL_RANK" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1"
        if threads is not None or launched:
            os.environ["OMP_NUM_THREADS"] = str(threads or _fair_share())
        # With a worker thread of its own the framework's scheduler spins beside it, and takes a core for itself.
        for name, value in zip(_NAMES, (str(_fair_share()), "0", SPIN_COUNT), strict=True):
            os.environ.setdefault(name, value)
        _settings = {name: os.environ[name] for name in _NAMES}
        if enabled and build.is_current():
            ctypes.CDLL(str(build.LIB / "job_queue.so"), mode=ctypes.RTLD_GLOBAL)
    return _settings


def import_oneflow() -> None:
    """Imports OneFlow quietly: its start-up notes about missing GPUs and network cards are no news on a laptop.

    Whoever wants them sets GLOG_minloglevel.
    """
    if "oneflow" in sys.modules or "GLOG_minloglevel" in os.environ:
        return
    os.environ["GLOG_minloglevel"] = "3"  # fatal errors still speak
    saved, silence = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)  # libibverbs writes past glog
    try:
        import oneflow  # noqa: F401
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(silence)


def configure_graph() -> None:
    """One stream of CPU kernels for compiled graphs; call it after OneFlow is imported and before the first graph.

    Left alone, OneFlow spreads a graph's kernels over as many threads as there are cores, each of which then starts
    a team of OpenMP threads of its own; and with several streams, the order of accumulated sums varies.
    """
    import oneflow as flow

    session = flow.framework.session_context.GetDefaultSession()
    session.TryInit()
    resource = session.resource
    resource.cpu_device_num = 1
    session.update_resource_eagerly(resource)


def _fair_share() -> int:
    """This host's cores for each rank on it, at least one. Ranks that have not met are taken to be on one host."""
    launched = "LOCAL_RANK" in os.environ
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("WORLD_SIZE", "1")) if launched else 1
    return max(1, len(os.sched_getaffinity(0)) // ranks)
