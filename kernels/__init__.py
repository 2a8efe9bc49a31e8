"""CPU kernels for OneFlow's own ops: faster forms of the stock ones, under the same names.

    import kernels
    kernels.configure()          # before OneFlow is imported: threads and spinning
    status = kernels.load()      # registers the kernels; says why where it cannot

A program works without any of this, slower. `python -m kernels` builds, reports and checks. See docs/cpu.md.
"""

from kernels.plugin import (
    Status,
    begin_dropout_step,
    hold_weights,
    is_loaded,
    last_gradient_norm,
    load,
    set_bf16,
)
from kernels.profile import Profile, profile
from kernels.settings import configure, configure_graph, import_oneflow

__all__ = [
    "Profile",
    "Status",
    "begin_dropout_step",
    "configure",
    "configure_graph",
    "hold_weights",
    "import_oneflow",
    "is_loaded",
    "last_gradient_norm",
    "load",
    "profile",
    "set_bf16",
]
