"""The span-boundary objective of SpanBERT (Joshi et al. 2020): predicts a masked token from its span's boundaries.

Shapes: `B` batch, `S` sequence, `H` hidden, `P` predictions per sequence, `R` rows, `V` vocabulary.
"""

from __future__ import annotations

from typing import Any

import oneflow as flow
from oneflow import nn

from configs.model import BertConfig
from modeling import losses
from modeling.bert import init_weights
from modeling.heads import BertForPreTraining, MaskedLMTransform

# As in facebookresearch/SpanBERT.
_MOST_OFFSETS, _OFFSET_SIZE = 20, 200


class BertForSpanPreTraining(BertForPreTraining):
    """`BertForPreTraining` with the span-boundary objective, whose head is not part of the saved model."""

    architecture = "BertForPreTraining"
    training_only = ("span_boundary.",)

    def __init__(self, config: BertConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.span_boundary = SpanBoundaryHead(config)
        init_weights(self.span_boundary, config, seed + 3)

    def forward(  # type: ignore[override]
        self,
        span_boundaries: flow.Tensor | None = None,
        span_offsets: flow.Tensor | None = None,
        **batch: Any,
    ) -> dict[str, flow.Tensor]:
        """The outputs of `BertForPreTraining`, and the loss of the objective.

        Args:
            span_boundaries: int [B, 2*P], the positions of the tokens before the span of each prediction, then of those
                after it (data/reading/span_boundaries.py).
            span_offsets: int [B, P], the place of each prediction in its span, from 0.
            batch: as for `BertForPreTraining`, with the labels of masked-LM.

        Returns:
            With boundaries also `sbo_loss`, which `total_loss` then includes, and `sbo_accuracy` in evaluation mode.
        """
        outputs = BertForPreTraining.forward(self, **batch)
        if span_boundaries is None or span_offsets is None:
            return outputs
        edges = flow._C.batch_gather(outputs["sequence_output"], span_boundaries)  # [B, 2*P, H]
        rows, predictions = span_offsets.shape
        width = edges.shape[-1]
        before = edges[:, :predictions].reshape(rows * predictions, width)
        after = edges[:, predictions:].reshape(rows * predictions, width)
        words = self.bert.embeddings.word_embeddings.weight  # [V, H], tied
        scores = self.span_boundary(before, after, span_offsets.reshape(-1), words)  # [B*P, V]
        labels, weights = batch["masked_lm_ids"].reshape(-1), batch["masked_lm_weights"].reshape(-1)
        reduction = batch.get("loss_reduction", "mean")
        outputs["sbo_loss"] = losses.cross_entropy(scores, labels, weights, reduction)
        if not self.training:
            outputs["sbo_accuracy"] = losses.accuracy(scores, labels, weights, reduction)
        outputs["total_loss"] = outputs["total_loss"] + outputs["sbo_loss"]
        return outputs


class SpanBoundaryHead(nn.Module):
    """Two layers with GELU and LayerNorm, then a decoder that shares its matrix with the word embeddings."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.offset_embeddings = nn.Embedding(_MOST_OFFSETS, _OFFSET_SIZE)
        self.lower = MaskedLMTransform(config, 2 * config.hidden_size + _OFFSET_SIZE)
        self.upper = MaskedLMTransform(config)
        self.bias = nn.Parameter(flow.zeros(config.vocab_size))

    def forward(
        self, before: flow.Tensor, after: flow.Tensor, offsets: flow.Tensor, decoder_weight: flow.Tensor
    ) -> flow.Tensor:
        """Score the words of a token in a span.

        Args:
            before, after: [R, H], the outputs at the span's boundaries.
            offsets: int [R], the token's place in the span; places from the twentieth on share an embedding.
            decoder_weight: [V, H].

        Returns:
            [R, V].
        """
        places = self.offset_embeddings(flow.clamp(offsets, max=_MOST_OFFSETS - 1))  # [R, 200]
        hidden = self.upper(self.lower(flow.cat([before, after, places], dim=1)))  # [R, H]
        return flow._C.matmul(hidden, decoder_weight, transpose_b=True) + self.bias
