"""python -m kernels [build]

Without an argument: reports whether the kernels are loaded, the features of the CPU and the speed of its matrix
products, and compares every kernel with numpy. `build` compiles the kernels unless they are up to date; with
`--sanitize` it adds AddressSanitizer.
"""

from __future__ import annotations

import sys

import kernels
from kernels.build import BuildError, build

TOLERANCE = 1e-5  # rounding error of float32 sums of a few hundred values
SHAPES = [(1, 1), (7, 37), (64, 768), (131, 257)]


def main() -> int:
    """Run the command; return its exit code."""
    arguments = sys.argv[1:]
    if arguments in (["build"], ["build", "--sanitize"]):
        return _build(sanitize=len(arguments) == 2)
    if arguments:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    return _report()


def _build(sanitize: bool) -> int:
    print("CPU kernels: building unless up to date (about a minute) …", flush=True)
    try:
        built = build(sanitize=sanitize)
    except BuildError as error:
        print(f"CPU kernels: not built, so OneFlow's slower stock kernels are used: {error}")
        return 1
    print(f"CPU kernels: {'built' if built else 'up to date'}")
    return 0


def _report() -> int:
    settings = kernels.configure()
    kernels.import_oneflow()
    status = kernels.load()
    print(status.reason)
    print(f"CPU features: {' '.join(status.cpu_features) or 'unknown'}")
    print("settings: " + " ".join(f"{name}={value}" for name, value in settings.items()))
    if not status.loaded:
        return 1
    from kernels import check  # imports OneFlow

    for kind, on in (("float32", False), ("bf16", True)):
        if kernels.set_bf16(on) == on:
            print(f"matrix products, {kind}: {check.gemm_speed() / 1e9:.0f} GFLOP/s")
    kernels.set_bf16(False)
    print(f"largest difference from numpy over {len(SHAPES)} shapes, relative to the largest expected value:")
    failed = 0
    for name in check.CASES:
        error = max(check.largest_error(name, *shape) for shape in SHAPES)
        failed += not error < TOLERANCE
        print(f"  {name:<36}{error:9.1e}{'' if error < TOLERANCE else '  WRONG'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
