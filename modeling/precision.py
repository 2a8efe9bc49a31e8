"""Mixed precision on CUDA: matrix products in fp16, losses in fp32.

In eager mode, `half_precision` selects it for a block. A compiled job has it from `config.enable_amp(True)`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import oneflow as flow


def half_precision(on: bool) -> AbstractContextManager[object]:
    """Inside the block, eager operations on CUDA compute matrix products in fp16, if `on`."""
    context: AbstractContextManager[object] = flow.autocast("cuda", dtype=flow.float16) if on else nullcontext()
    return context


def in_fp32(x: flow.Tensor) -> flow.Tensor:
    """The same values in fp32, on CUDA in mixed precision; on a CPU, and without mixed precision, x itself.

    In fp16, small weights would become subnormal, and a loss would overflow when it is scaled.
    """
    return flow._C.amp_black_identity(x).float() if x.is_cuda else x


def stored(x: flow.Tensor) -> flow.Tensor:
    """An output of a model for a caller: in fp32 instead of fp16."""
    return x.float() if x.dtype == flow.float16 else x
