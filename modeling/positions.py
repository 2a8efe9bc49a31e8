"""Positions that are applied in attention: rotary angles and ALiBi's slopes.

Shapes: `B` rows, `S` positions of a row, `N` heads, `D` head size.
"""

from __future__ import annotations

import math

import numpy as np
import oneflow as flow
from oneflow import nn

# The cosines and sines of each token, repeated for each head: [B*S or S, N*D] each.
Rotation = tuple[flow.Tensor, flow.Tensor]


class Rotary(nn.Module):
    """The angles that rotate queries and keys (Su et al. 2021), for all positions up to a length.

    Element `i` of the first half of a head and element `i` of its second half are rotated together by the angle
    position / theta^(2i / D), as in Hugging Face transformers.

    Args:
        theta: the base.
        positions: the longest sequence.
        heads: `N`.
        head_size: `D`.
    """

    def __init__(self, theta: float, positions: int, heads: int, head_size: int) -> None:
        super().__init__()
        # In float32 throughout, as in transformers: its angles at far positions are rounded in the same way.
        exponents = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
        frequencies = (np.float32(1) / np.float32(theta) ** exponents).astype(np.float32)
        angles = np.arange(positions, dtype=np.float32)[:, None] * frequencies  # [L, D/2]
        sines, cosines = np.sin(angles), np.cos(angles)
        self.heads = heads
        self.register_buffer("cosines", flow.from_numpy(np.concatenate([cosines, cosines], 1)), persistent=False)
        self.register_buffer("sines", flow.from_numpy(np.concatenate([-sines, sines], 1)), persistent=False)

    def forward(self, length: int, position_ids: flow.Tensor | None = None) -> Rotation:
        """The rotation of the first `length` positions, or of each token's own position [B, S]."""
        return self._of_heads(self.cosines, length, position_ids), self._of_heads(self.sines, length, position_ids)

    def _of_heads(self, table: flow.Tensor, length: int, position_ids: flow.Tensor | None) -> flow.Tensor:
        angles = table[:length] if position_ids is None else flow._C.gather(table, position_ids.reshape(-1), axis=0)
        return flow.cat([angles] * self.heads, dim=1)  # [S or B*S, N*D]


def rotate(x: flow.Tensor, rotation: Rotation, heads: int) -> flow.Tensor:
    """Rotates each head of x [B*S, N*D]."""
    cosines, sines = rotation
    rows, width = x.shape
    half = width // heads // 2
    halves = x.reshape(rows * heads, 2, half)
    swapped = flow.cat([halves[:, 1:], halves[:, :1]], dim=1)  # [B*S*N, 2, D/2]
    turned = x.reshape(-1, cosines.numel()) * cosines.reshape(1, -1)  # one row for each repetition of the table
    turned = turned + swapped.reshape(-1, sines.numel()) * sines.reshape(1, -1)
    return turned.reshape(rows, width)


def alibi_slopes(heads: int) -> tuple[float, ...]:
    """The penalty of each head per position of distance, subtracted from its scores (ALiBi, Press et al. 2022)."""
    below = 1 << (heads.bit_length() - 1)  # the largest power of two up to `heads`
    slopes = [2.0 ** (-8 * (i + 1) / below) for i in range(below)]
    between = [2.0 ** (-4 * (i + 1) / below) for i in range(2 * below)]
    return tuple(slopes + between[::2][: heads - below]) if not math.log2(heads).is_integer() else tuple(slopes)
