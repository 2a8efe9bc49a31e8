"""CPU kernels for OneFlow's own ops: faster forms of the stock ones, under the same names.

    import kernels
    kernels.configure()          # before OneFlow is imported: threads and spinning
    status = kernels.load()      # registers the kernels; says why where it cannot

A program works without any of this, slower. `python -m kernels` builds, reports and checks. See docs/cpu.md.
"""

from kernels.plugin import (
    Status,
    hold_weights,
    is_loaded,
    last_gradient_norm,
    load,
    push_dropout_step,
    set_bf16,
    set_dropout_seed,
)
from kernels.profile import Profile, profile
from kernels.settings import configure, configure_graph, import_oneflow

__all__ = [
    "Profile",
    "Status",
    "configure",
    "configure_graph",
    "hold_weights",
    "import_oneflow",
    "is_loaded",
    "last_gradient_norm",
    "load",
    "profile",
    "push_dropout_step",
    "set_bf16",
    "set_dropout_seed",
]
