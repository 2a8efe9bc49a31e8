"""Compiles the CPU kernels: one shared library per instruction set, from which `kernels.load` selects one, and a small
library that is loaded before OneFlow.

This needs g++, and the headers and libraries of OneFlow and oneDNN, which are in the Python environment.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LIB = HERE / "lib"
ENVIRONMENT = Path(sys.prefix)
ONEFLOW_VERSION = "0.9.0"  # the kernels are compiled against this version's binary interface

# No -ffast-math: it flushes denormals in the whole process and removes NaN checks. Loops that may reorder sums are
# marked with `omp simd reduction` instead. No -march=native: the flags below name each instruction set.
INSTRUCTION_SETS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"],
}
# The ABI of OneFlow's wheel: the old C++ strings, no assertions. -fno-math-errno and -fno-trapping-math keep NaN and
# infinity intact and let the compiler vectorize square roots and selections.
FLAGS = (
    "-std=c++17 -O2 -fopenmp -fPIC -fvisibility=hidden -fno-math-errno -fno-trapping-math -w "
    "-DNDEBUG -D_GLIBCXX_USE_CXX11_ABI=0 -DHALF_ENABLE_CPP11_USER_LITERALS=0"
).split()
# The wheel's include directory also contains many system headers. The kernels need only these.
WHEEL_HEADERS = "oneflow google absl re2 flatbuffers fmt llvm llvm-c hwloc.h half.hpp nccl.h xxhash.h".split()


class BuildError(Exception):
    """The kernels cannot be compiled here. The message says why, and what to do."""


def sources() -> list[Path]:
    """The C++ source files of the kernels."""
    return sorted((HERE / "src").glob("*.cpp"))


def fingerprint(sanitize: bool = False) -> str:
    """A hash of the sources, this file, OneFlow's version and `sanitize`."""
    digest = hashlib.sha256(repr((oneflow_version(), sanitize)).encode())
    for path in [*sorted((HERE / "src").rglob("*")), Path(__file__)]:
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def is_current() -> bool:
    """Whether the libraries in kernels/lib were built from these sources for this version of OneFlow."""
    stamp = LIB / "fingerprint"
    return stamp.is_file() and stamp.read_text().strip() in (fingerprint(), fingerprint(sanitize=True))


def build(jobs: int | None = None, sanitize: bool = False) -> bool:
    """Build the libraries unless they are up to date.

    Args:
        jobs: parallel compilations (default: the number of cores this process may use).
        sanitize: build with AddressSanitizer, for tests that run Python with libasan preloaded.

    Returns:
        Whether anything was built.

    Raises:
        BuildError: there is no compiler, headers are missing, a compilation fails, or this is not x86-64 Linux.
    """
    if (LIB / "fingerprint").is_file() and (LIB / "fingerprint").read_text().strip() == fingerprint(sanitize):
        return False
    compiler = os.environ.get("CXX") or "g++"
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise BuildError(f"the CPU kernels need x86-64 Linux, but this is {platform.machine()} {sys.platform}")
    if oneflow_version() != ONEFLOW_VERSION:
        raise BuildError(
            f"the CPU kernels need OneFlow {ONEFLOW_VERSION}, but {oneflow_version()} is installed: run `make setup`"
        )
    if shutil.which(compiler) is None:
        raise BuildError(f"no C++ compiler ({compiler}) on PATH: install g++ (on Debian: apt install g++) or set CXX")
    if not (ENVIRONMENT / "include" / "dnnl.h").is_file():
        raise BuildError("oneDNN's headers are not in the environment: run `make setup`")
    with tempfile.TemporaryDirectory(prefix="kernels-") as directory:
        work = Path(directory)
        flags = [*FLAGS, *(["-fsanitize=address", "-g", "-O1"] if sanitize else []), *_include_flags(work)]
        with concurrent.futures.ThreadPoolExecutor(jobs or len(os.sched_getaffinity(0))) as pool:
            list(pool.map(lambda task: _run([compiler, *task]), _precompile_tasks(work, flags)))
            list(pool.map(lambda task: _run([compiler, *task]), _compile_tasks(work, flags)))
            LIB.mkdir(exist_ok=True)
            list(pool.map(lambda name: _link(compiler, work / name, name, sanitize), INSTRUCTION_SETS))
        _preload(compiler, sanitize)
    (LIB / "fingerprint").write_text(fingerprint(sanitize) + "\n")
    return True


def _precompile_tasks(work: Path, flags: list[str]) -> list[list[str]]:
    """Precompile OneFlow's headers, which take most of the time of a compilation, once per instruction set."""
    tasks = []
    for name, isa in INSTRUCTION_SETS.items():
        (work / name).mkdir()
        header = work / name / "kernel.h"
        tasks.append([*flags, *isa, "-x", "c++-header", str(HERE / "src" / "kernel.h"), "-o", f"{header}.gch"])
    return tasks


def _compile_tasks(work: Path, flags: list[str]) -> list[list[str]]:
    return [
        [*flags, *isa, f"-I{objects}", "-include", "kernel.h", "-c", str(path), "-o", str(objects / f"{path.stem}.o")]
        for path in sources()
        for objects, isa in ((work / name, isa) for name, isa in INSTRUCTION_SETS.items())
    ]


def _link(compiler: str, objects: Path, name: str, sanitize: bool) -> None:
    wheel = _wheel_directory().parent / "oneflow.libs"
    libraries = [_wheel_library(stem) for stem in ("oneflow", "of_protoobj", "protobuf")]
    link = [f"-L{wheel}", *(f"-l:{library}" for library in libraries), f"-L{ENVIRONMENT / 'lib'}", "-l:libdnnl.so.3"]
    link += [f"-Wl,-rpath,{wheel}", f"-Wl,-rpath,{ENVIRONMENT / 'lib'}", "-Wl,--allow-shlib-undefined"]
    link += ["-fsanitize=address"] if sanitize else []
    _shared_object([compiler, "-fopenmp", *map(str, sorted(objects.glob("*.o"))), *link], LIB / f"kernels_{name}.so")


def _preload(compiler: str, sanitize: bool) -> None:
    """Compiles the library that is loaded before OneFlow and therefore cannot be linked against it."""
    name = f'-DONEFLOW_LIBRARY="{_wheel_library("oneflow")}"'
    flags = [*FLAGS, *(["-fsanitize=address"] if sanitize else []), name]
    _shared_object([compiler, *flags, str(HERE / "src" / "preload" / "job_queue.cpp"), "-ldl"], LIB / "job_queue.so")


def _shared_object(command: list[str], target: Path) -> None:
    unfinished = target.with_suffix(".so.tmp")
    _run([*command, "-shared", "-o", str(unfinished)])
    unfinished.rename(target)


def _wheel_library(stem: str) -> str:
    """The file name of one of OneFlow's own libraries."""
    return next((_wheel_directory().parent / "oneflow.libs").glob(f"lib{stem}-*")).name


def _include_flags(work: Path) -> list[str]:
    include = work / "include"
    include.mkdir()
    for name in WHEEL_HEADERS:
        header = _wheel_directory() / "include" / name
        if header.exists():
            (include / name).symlink_to(header)
    # kernels/src comes first, because its glog replaces the wheel's.
    return [f"-I{HERE / 'src'}", f"-I{include}", f"-I{ENVIRONMENT / 'include'}"]


def _wheel_directory() -> Path:
    spec = importlib.util.find_spec("oneflow")
    if spec is None or spec.origin is None:
        raise BuildError("OneFlow is not installed in this environment: run `make setup`")
    return Path(spec.origin).parent


def oneflow_version() -> str:
    """The installed version of OneFlow, or "none"."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("oneflow")
    except PackageNotFoundError:
        return "none"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"`{command[0]}` failed:\n{done.stderr[-4000:]}")
