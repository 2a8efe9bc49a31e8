"""The encoder with heads for pretraining, question answering and classification. The losses are in losses.py.

Shapes: `B` batch, `S` sequence, `H` hidden, `P` predictions per sequence, `V` vocabulary, `C` classes.
"""

from __future__ import annotations

import oneflow as flow
from oneflow import nn

from configs.model import BertConfig
from modeling import losses, ops
from modeling.bert import BertModel, Dense, LayerNorm, init_weights
from modeling.layout import whole
from modeling.pretrained import PretrainedModel


class BertForPreTraining(PretrainedModel):
    """Masked-LM and next-sentence heads (google-research/bert run_pretraining.py)."""

    def __init__(self, config: BertConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.bert = BertModel(config, seed)
        self.cls = PreTrainingHeads(config)
        init_weights(self.cls, config, seed + 1)

    def forward(
        self,
        input_ids: flow.Tensor,
        input_mask: flow.Tensor | None = None,
        segment_ids: flow.Tensor | None = None,
        masked_lm_positions: flow.Tensor | None = None,
        masked_lm_ids: flow.Tensor | None = None,
        masked_lm_weights: flow.Tensor | None = None,
        next_sentence_labels: flow.Tensor | None = None,
        example_weights: flow.Tensor | None = None,
        packed_tokens: flow.Tensor | None = None,
        packed_places: flow.Tensor | None = None,
        loss_reduction: str = "mean",
    ) -> dict[str, flow.Tensor]:
        """Score masked tokens and sentence pairs; compute the losses for which labels are given.

        Args:
            input_ids, input_mask, segment_ids, packed_tokens, packed_places: as for `BertModel`.
            masked_lm_positions: int [B, P], the positions to predict (default: all S positions).
            masked_lm_ids: int [B, P], the original tokens at these positions.
            masked_lm_weights: float [B, P], 1 for a prediction and 0 for padding (default: 1).
            next_sentence_labels: int [B, 1], 1 if the second sentence is random and 0 if it follows the first.
            example_weights: float [B], 1 for a record and 0 for a padding row (default: 1).
            loss_reduction: "mean" or "sum", see losses.py.

        Returns:
            BertModel's outputs, `prediction_scores` [B, P, V] (or [B, S, V] without positions), also as `logits`, and
            `seq_relationship_score` [B, 2]. With labels also `mlm_loss`, `mlm_accuracy` (in evaluation mode only),
            `nsp_loss`, `nsp_accuracy`, and `total_loss`, the sum of the losses.
        """
        outputs = self.bert(input_ids, input_mask, segment_ids, packed_tokens, packed_places)
        hidden = outputs["sequence_output"]  # [B, S, H]
        if masked_lm_positions is not None:
            hidden = flow._C.batch_gather(hidden, masked_lm_positions)  # [B, P, H]
        batch, predictions, _ = hidden.shape
        decoder_weight = self.bert.embeddings.word_embeddings.weight  # [V, E]
        scores = self.cls.predictions(hidden.reshape(batch * predictions, -1), decoder_weight)  # [B*P, V]
        relationship = self.cls.seq_relationship(outputs["pooled_output"])  # [B, 2]
        outputs["prediction_scores"] = outputs["logits"] = scores.reshape(batch, predictions, -1)
        outputs["seq_relationship_score"] = relationship

        total = []
        if masked_lm_ids is not None:
            labels = masked_lm_ids.reshape(-1)  # [B*P]
            weights = flow.ones_like(scores[:, 0]) if masked_lm_weights is None else masked_lm_weights.reshape(-1)
            outputs["mlm_loss"] = losses.cross_entropy(scores, labels, weights, loss_reduction)
            if not self.training:  # argmax over V scores is slow
                outputs["mlm_accuracy"] = losses.accuracy(scores, labels, weights, loss_reduction)
            total.append(outputs["mlm_loss"])
        if next_sentence_labels is not None:
            labels = next_sentence_labels.reshape(-1)  # [B]
            weights = _weights_or_ones(example_weights, relationship)
            outputs["nsp_loss"] = losses.cross_entropy(relationship, labels, weights, loss_reduction)
            outputs["nsp_accuracy"] = losses.accuracy(relationship, labels, weights, loss_reduction)
            total.append(outputs["nsp_loss"])
        if total:
            outputs["total_loss"] = sum(total[1:], total[0])
        return outputs


class PreTrainingHeads(nn.Module):
    """Both pretraining heads, with the parameter names of the published checkpoints."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.predictions = MaskedLMHead(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)


class MaskedLMHead(nn.Module):
    """A dense layer with activation and LayerNorm, then a decoder, whose matrix is that of the word embeddings.

    Variants may have a separate decoder matrix. `E` is the width of the embeddings, which is H in BERT.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = MaskedLMTransform(config)
        self.bias = nn.Parameter(flow.zeros(config.vocab_size)) if config.decoder_bias else None
        if not config.tied_decoder:
            self.decoder = nn.Linear(config.embedding_width, config.vocab_size, bias=False)

    def forward(self, hidden: flow.Tensor, word_embeddings: flow.Tensor) -> flow.Tensor:
        """hidden [R, H], word_embeddings [V, E] -> [R, V]."""
        weight = self.decoder.weight if hasattr(self, "decoder") else word_embeddings
        scores = flow._C.matmul(whole(self.transform(hidden)), weight, transpose_b=True)
        return scores if self.bias is None else scores + self.bias


class MaskedLMTransform(Dense):
    """LayerNorm(activation(dense(x)))."""

    def __init__(self, config: BertConfig, in_features: int | None = None) -> None:
        super().__init__(in_features or config.hidden_size, config.embedding_width, config)
        self.LayerNorm = LayerNorm(config, config.embedding_width)
        self.activation = config.transform_activation or config.hidden_act

    def forward(self, hidden: flow.Tensor) -> flow.Tensor:
        """[R, in_features], by default [R, H] -> [R, E]."""
        projected = flow._C.matmul(hidden, self.dense.weight, transpose_b=True)
        return self.LayerNorm(ops.bias_activation(projected, self.dense.bias, self.activation))


class BertForQuestionAnswering(PretrainedModel):
    """Start and end logits of the answer span (google-research/bert run_squad.py)."""

    def __init__(self, config: BertConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.unused = () if config.token_head else ("bert.pooler.",)
        self.bert = BertModel(config, seed)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        init_weights(self.qa_outputs, config, seed + 1)

    def forward(
        self,
        input_ids: flow.Tensor,
        input_mask: flow.Tensor | None = None,
        segment_ids: flow.Tensor | None = None,
        start_positions: flow.Tensor | None = None,
        end_positions: flow.Tensor | None = None,
        example_weights: flow.Tensor | None = None,
        packed_tokens: flow.Tensor | None = None,
        packed_places: flow.Tensor | None = None,
        loss_reduction: str = "mean",
    ) -> dict[str, flow.Tensor]:
        """Score every token as start and end of the answer.

        Args:
            input_ids, input_mask, segment_ids, packed_tokens, packed_places: as for `BertModel`.
            start_positions, end_positions: int [B, 1], the first and last token of the answer.
            example_weights, loss_reduction: as for `BertForPreTraining`.

        Returns:
            BertModel's outputs, `logits` [B, S, 2], `start_logits` and `end_logits` [B, S]; with positions also
            `total_loss`, the mean of the start loss and the end loss.
        """
        outputs = self.bert(input_ids, input_mask, segment_ids, packed_tokens, packed_places)
        logits = self.qa_outputs(token_features(self.bert, outputs["sequence_output"]))  # [B, S, 2]
        if packed_places is not None and input_mask is not None:  # there are no outputs at padding
            logits = logits + ((1 - input_mask) * ops.MASKED_SCORE).to(logits.dtype).unsqueeze(-1)
        outputs["logits"] = logits
        outputs["start_logits"], outputs["end_logits"] = logits[:, :, 0], logits[:, :, 1]
        if start_positions is not None and end_positions is not None:
            weights = _weights_or_ones(example_weights, outputs["pooled_output"])
            span_losses = [
                losses.cross_entropy(outputs[f"{edge}_logits"], positions.reshape(-1), weights, loss_reduction)
                for edge, positions in (("start", start_positions), ("end", end_positions))
            ]
            outputs["total_loss"] = (span_losses[0] + span_losses[1]) / 2
        return outputs


class BertForSequenceClassification(PretrainedModel):
    """Predicts one label, several labels, or a number, depending on the configuration's `problem_type`.

    One label is as in google-research/bert run_classifier.py, the other two as in Hugging Face transformers.
    """

    def __init__(self, config: BertConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.bert = BertModel(config, seed)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        init_weights(self.classifier, config, seed + 1)

    def forward(
        self,
        input_ids: flow.Tensor,
        input_mask: flow.Tensor | None = None,
        segment_ids: flow.Tensor | None = None,
        label_ids: flow.Tensor | None = None,
        label_weights: flow.Tensor | None = None,
        label_scales: flow.Tensor | None = None,
        example_weights: flow.Tensor | None = None,
        packed_tokens: flow.Tensor | None = None,
        packed_places: flow.Tensor | None = None,
        loss_reduction: str = "mean",
    ) -> dict[str, flow.Tensor]:
        """Score every class.

        Args:
            input_ids, input_mask, segment_ids, packed_tokens, packed_places: as for `BertModel`.
            label_ids: [B, 1], int classes or, for regression, float targets; [B, C], 1 for each of several labels.
            label_weights: float [B, 1], the weight of each example's loss (default: `example_weights`).
            label_scales: float [B, C], the factor of each label's cross entropy in an example's loss: smoothed
                targets, or the weights of several labels (default: only `label_ids` counts).
            example_weights, loss_reduction: as for `BertForPreTraining`.

        Returns:
            BertModel's outputs and `logits` [B, C]. With labels also `total_loss`: the cross entropy of one label, the
            mean sigmoid cross entropy of several, or the squared error of a number; for one label also `accuracy`.
        """
        outputs = self.bert(input_ids, input_mask, segment_ids, packed_tokens, packed_places)
        rate = self.config.hidden_dropout_prob if self.training else 0.0
        logits = self.classifier(ops.dropout(outputs["pooled_output"], rate))  # [B, C]
        outputs["logits"] = logits
        if label_ids is not None:
            examples = _weights_or_ones(example_weights, logits)  # [B]
            weights = examples if label_weights is None else label_weights.reshape(-1)
            if self.config.problem_type == "multi_label_classification":
                outputs["total_loss"] = losses.binary_cross_entropy(
                    logits, label_ids, label_scales, weights, loss_reduction
                )
            elif self.config.is_regression:
                error = logits[:, 0] - label_ids.reshape(-1).to(logits.dtype)
                outputs["total_loss"] = losses.reduce(error * error, weights, loss_reduction)
            else:
                labels = label_ids.reshape(-1)
                if label_scales is None:
                    outputs["total_loss"] = losses.cross_entropy(logits, labels, weights, loss_reduction)
                else:
                    outputs["total_loss"] = losses.soft_cross_entropy(logits, label_scales, weights, loss_reduction)
                outputs["accuracy"] = losses.accuracy(logits, labels, examples, loss_reduction)
        return outputs


class BertForTokenClassification(PretrainedModel):
    """Predicts a label for every token (Devlin et al. 2019, section 5.3), with Hugging Face's parameter names."""

    def __init__(self, config: BertConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.unused = () if config.token_head else ("bert.pooler.",)
        self.bert = BertModel(config, seed)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        init_weights(self.classifier, config, seed + 1)

    def forward(
        self,
        input_ids: flow.Tensor,
        input_mask: flow.Tensor | None = None,
        segment_ids: flow.Tensor | None = None,
        label_ids: flow.Tensor | None = None,
        label_weights: flow.Tensor | None = None,
        example_weights: flow.Tensor | None = None,
        packed_tokens: flow.Tensor | None = None,
        packed_places: flow.Tensor | None = None,
        loss_reduction: str = "mean",
    ) -> dict[str, flow.Tensor]:
        """Score every class for every token.

        Args:
            input_ids, input_mask, segment_ids, packed_tokens, packed_places: as for `BertModel`.
            label_ids: int [B, S], the class of each token.
            label_weights: float [B, S], 1 for the tokens that count and 0 for the others (default: 1).
            example_weights: not used, because `label_weights` is 0 in padding rows.
            loss_reduction: as for `BertForPreTraining`.

        Returns:
            BertModel's outputs, `logits` [B, S, C] and, in evaluation mode, `predicted_ids` [B, S]. With labels also
            `total_loss`, the mean cross entropy of the tokens, and `accuracy`.
        """
        outputs = self.bert(input_ids, input_mask, segment_ids, packed_tokens, packed_places)
        rate = self.config.hidden_dropout_prob if self.training else 0.0
        features = token_features(self.bert, outputs["sequence_output"])
        batch, seq, hidden = features.shape
        flat = self.classifier(ops.dropout(features.reshape(batch * seq, hidden), rate))  # [B*S, C]
        outputs["logits"] = flat.reshape(batch, seq, -1)
        if not self.training:
            outputs["predicted_ids"] = flow.argmax(outputs["logits"], dim=-1)
        if label_ids is not None:
            labels = label_ids.reshape(-1)  # [B*S]
            weights = flow.ones_like(flat[:, 0]) if label_weights is None else label_weights.reshape(-1)
            outputs["total_loss"] = losses.cross_entropy(flat, labels, weights, loss_reduction)
            outputs["accuracy"] = losses.accuracy(flat, labels, weights, loss_reduction)
        return outputs


def token_features(bert: BertModel, sequence_output: flow.Tensor) -> flow.Tensor:
    """The input of token heads: the sequence output, or with `token_head` the pooler's output for each token."""
    if not bert.config.token_head:
        return sequence_output
    hidden = sequence_output.shape[2]
    return bert.pooler.transform(sequence_output.reshape(-1, hidden)).reshape(sequence_output.shape)


def _weights_or_ones(weights: flow.Tensor | None, like: flow.Tensor) -> flow.Tensor:
    """`weights` as [B], or ones if there are none; `like` [B, ...] determines size and type."""
    return flow.ones_like(like[:, 0]) if weights is None else weights.reshape(-1)
