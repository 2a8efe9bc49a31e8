"""Compiles the CPU kernels: one shared object per instruction set, chosen between when they are loaded, and one that is
loaded before OneFlow.

Needs g++ and what the environment holds already: OneFlow's headers and libraries, oneDNN's header and library.
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
ONEFLOW_VERSION = "0.9.0"  # whose binary interface all this is compiled against

# Never -ffast-math (it flushes denormals for the whole process and drops NaN tests), never -march=native: each
# instruction set gets flags of its own, and loops that may reorder sums say so (`omp simd reduction`).
INSTRUCTION_SETS = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"],
}
# The ABI of OneFlow's wheel: the old C++ strings and no assertions. No errno and no trapping leave NaN and infinity
# as they are and let square roots and selections become vector instructions.
FLAGS = (
    "-std=c++17 -O2 -fopenmp -fPIC -fvisibility=hidden -fno-math-errno -fno-trapping-math -w "
    "-DNDEBUG -D_GLIBCXX_USE_CXX11_ABI=0 -DHALF_ENABLE_CPP11_USER_LITERALS=0"
).split()
# The wheel's include folder holds a whole system's headers; these are the ones that kernels need.
WHEEL_HEADERS = "oneflow google absl re2 flatbuffers fmt llvm llvm-c hwloc.h half.hpp nccl.h xxhash.h".split()


class BuildError(Exception):
    """Why the kernels cannot be compiled here, in one sentence with the way out."""


def sources() -> list[Path]:
    return sorted((HERE / "src").glob("*.cpp"))


def fingerprint(sanitize: bool = False) -> str:
    """Changes with the sources, this file and OneFlow's version."""
    digest = hashlib.sha256(repr((oneflow_version(), sanitize)).encode())
    for path in [*sorted((HERE / "src").rglob("*")), Path(__file__)]:
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def is_current() -> bool:
    """Whether what lies in kernels/lib was built from these sources for this OneFlow."""
    stamp = LIB / "fingerprint"
    return stamp.is_file() and stamp.read_text().strip() in (fingerprint(), fingerprint(sanitize=True))


def build(jobs: int | None = None, sanitize: bool = False) -> bool:
    """Builds what is not current and returns whether anything was built.

    Args:
        jobs: compilations at a time (default: the cores this process may use).
        sanitize: with AddressSanitizer, for testing (run Python with libasan preloaded).

    Raises:
        BuildError: no compiler, another architecture, or missing headers.
    """
    if (LIB / "fingerprint").is_file() and (LIB / "fingerprint").read_text().strip() == fingerprint(sanitize):
        return False
    compiler = os.environ.get("CXX") or "g++"
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise BuildError(f"the CPU kernels are for x86-64 Linux, and this is {platform.machine()} {sys.platform}")
    if oneflow_version() != ONEFLOW_VERSION:
        raise BuildError(f"the CPU kernels are made for OneFlow {ONEFLOW_VERSION}: run `make setup`")
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
    """OneFlow's headers take most of a file's time; each instruction set reads them once."""
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
    """What is loaded before OneFlow, and so is not linked with it."""
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
    # kernels/src first: its glog stands in for the wheel's.
    return [f"-I{HERE / 'src'}", f"-I{include}", f"-I{ENVIRONMENT / 'include'}"]


def _wheel_directory() -> Path:
    spec = importlib.util.find_spec("oneflow")
    if spec is None or spec.origin is None:
        raise BuildError("OneFlow is not installed in this environment: run `make setup`")
    return Path(spec.origin).parent


def oneflow_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("oneflow")
    except PackageNotFoundError:
        return "none"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"`{command[0]}` failed:\n{done.stderr[-4000:]}")
