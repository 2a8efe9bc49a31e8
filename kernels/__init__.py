"""CPU kernels that replace OneFlow's stock ones with faster implementations of the same ops.

    import kernels
    kernels.configure()          # before OneFlow is imported: sets threads and spinning
    status = kernels.load()      # registers the kernels, or says why it cannot

Everything also works without them, but slower. `python -m kernels` checks them, `python -m kernels build` builds them.
See docs/cpu.md.
"""

import utils.environment  # noqa: F401  ends with a sentence if Python is too old for the modules below
from kernels.plugin import (
    Status,
    begin_dropout_step,
    bf16_is_on,
    call_attention,
    finish_divided_updates,
    gradient_norms_are_finite,
    hold_weights,
    is_loaded,
    last_gradient_norm,
    leave_out_updates_above,
    load,
    set_bf16,
    share_memory_in_graphs,
    watch_gradient_norms,
)
from kernels.profile import Profile, profile
from kernels.settings import configure, configure_graph, import_oneflow

__all__ = [
    "Profile",
    "Status",
    "begin_dropout_step",
    "bf16_is_on",
    "call_attention",
    "configure",
    "configure_graph",
    "finish_divided_updates",
    "gradient_norms_are_finite",
    "hold_weights",
    "import_oneflow",
    "is_loaded",
    "last_gradient_norm",
    "leave_out_updates_above",
    "load",
    "profile",
    "set_bf16",
    "share_memory_in_graphs",
    "watch_gradient_norms",
]
