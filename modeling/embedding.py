"""A model that computes one vector per text.

Shapes: `B` rows of the batch, `T` texts of a row, `S` sequence, `H` hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import oneflow as flow

from configs.model import BertConfig
from configs.pooling import Pooling
from modeling import losses
from modeling.bert import BertModel
from modeling.embedding_losses import EmbeddingLoss, normalized
from modeling.precision import in_fp32

_EXCLUDED = -1e9


class BertForEmbedding(BertModel):
    """The encoder with pooling, as a bi-encoder (Reimers & Gurevych 2019). Its parameters are the encoder's.

    Args:
        config, seed: as for `BertModel`.
        pooling: how token vectors are combined into one vector (default: the mean).
        loss: the loss over the vectors of a batch; None for inference.
    """

    architecture = "BertModel"

    def __init__(
        self, config: BertConfig, seed: int = 0, pooling: Pooling | None = None, loss: EmbeddingLoss | None = None
    ) -> None:
        super().__init__(config, seed)
        self.pooling, self.loss = pooling or Pooling(), loss

    def forward(
        self,
        input_ids: flow.Tensor,
        input_mask: flow.Tensor | None = None,
        segment_ids: flow.Tensor | None = None,
        scores: flow.Tensor | None = None,
        embedding_gradients: flow.Tensor | None = None,
        example_weights: flow.Tensor | None = None,
        loss_reduction: str = "mean",
    ) -> dict[str, flow.Tensor]:
        """Embed every text of every row, and compute the loss.

        Args:
            input_ids, input_mask, segment_ids: as for `BertModel`, [B, T, S].
            scores: float [B, 1], the similarity of the two texts of a row.
            embedding_gradients: float [B, T*H], the gradients of a loss over all rows of an update that was computed
                before (training/gradient_cache.py).
            example_weights, loss_reduction: as for `BertForPreTraining`.

        Returns:
            `embeddings` [B, T*H]. In training also `total_loss`: the model's loss or, with `embedding_gradients`, a sum
            with these gradients.
        """
        rows, texts, length = input_ids.shape
        mask = flow.ones_like(input_ids) if input_mask is None else input_mask
        mask = mask.reshape(rows * texts, length)
        segments = None if segment_ids is None else segment_ids.reshape(rows * texts, length)
        encoded = BertModel.forward(self, input_ids.reshape(rows * texts, length), mask, segments)
        vectors = pool(encoded["sequence_output"], mask, self.pooling.kind)  # [B*T, H]
        if self.pooling.normalize:
            vectors = normalized(vectors)
        outputs = {"embeddings": vectors.reshape(rows, -1)}
        if not self.training or example_weights is None:
            return outputs
        if embedding_gradients is not None:
            items = (in_fp32(outputs["embeddings"]) * embedding_gradients).sum(dim=1)  # [B]
        else:
            items = self.losses(outputs["embeddings"], texts, scores, example_weights)
        outputs["total_loss"] = losses.reduce(items, example_weights, loss_reduction)
        return outputs

    def losses(
        self, embeddings: flow.Tensor, texts: int, scores: flow.Tensor | None, weights: flow.Tensor
    ) -> flow.Tensor:
        """The loss of each row, [B]; embeddings [B, T*H], scores [B, 1] or None, weights [B]."""
        assert self.loss is not None
        vectors = in_fp32(embeddings).reshape(embeddings.shape[0], texts, -1)  # [B, T, H]
        return self.loss(vectors, None if scores is None else scores.reshape(-1), weights)

    def save_pretrained(
        self,
        directory: str | Path,
        arrays: dict[str, np.ndarray] | None = None,
        tokenizer: Mapping[str, bytes] | None = None,
    ) -> None:
        """Writes a directory that sentence-transformers reads as well; see `PretrainedModel.save_pretrained`."""
        super().save_pretrained(directory, arrays, tokenizer)
        for name, content in self.pooling.files(self.config.hidden_size).items():
            path = Path(directory, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        if self.pooling.normalize:
            Path(directory, "2_Normalize").mkdir(exist_ok=True)


def pool(hidden: flow.Tensor, mask: flow.Tensor, kind: str) -> flow.Tensor:
    """Combines token vectors into one vector per text; hidden [R, S, H], mask [R, S] -> [R, H]."""
    if kind == "cls":
        return hidden[:, 0]
    keep = mask.to(hidden.dtype).unsqueeze(-1)  # [R, S, 1]
    if kind == "mean":
        return (hidden * keep).sum(dim=1) / flow.clamp(keep.sum(dim=1), min=1e-9)
    return (hidden + (1.0 - keep) * _EXCLUDED).amax(dim=1)
