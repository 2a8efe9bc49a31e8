"""Knowledge distillation: training a model on a teacher's outputs, hidden states and attention.

    student = distilled(BertForPreTraining)(config, seed)
    student.learn_from(teacher, lesson)     # in training, total_loss then includes the terms of the lesson

The student keeps its own class and parameter names, so that checkpoints, optimizers and evaluation do not change.

Shapes: `B` batch, `S` sequence, `R` all tokens of a batch (B*S, or those of its packed rows), `H` hidden, `N` relation
heads, `K` items, `C` classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import oneflow as flow
import oneflow.nn.functional as F
from oneflow import nn

from modeling import dropout, losses, ops, trace
from modeling.attention import Rows, visible
from modeling.bert import init_weights
from modeling.embedding_losses import normalized
from modeling.precision import in_fp32
from modeling.pretrained import PretrainedModel

FIGURES = ("label_loss", "distill_loss", "distill_hidden_loss", "distill_attention_loss")  # in addition to the model's
_TEACHER, _PROJECTION = "teacher.", "hidden_projection."
_INPUTS = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "packed_tokens", "packed_places")
SoftTargetKind = Literal["classes", "labels", "numbers", "vectors"]


@dataclass(frozen=True)
class SoftTarget:
    """An output of the teacher that the student learns to match with its output of the same name.

    Attributes:
        output: its name; its shape is [..., C] or, for vectors, [B, T*H].
        weights: the batch array with a weight for each item, as in the loss against the labels.
        kind: "classes": logits of exclusive classes; "labels": logits of independent labels; "numbers": regression;
            "vectors": the embeddings of the T texts of a row.
        parameters: prefixes of the names of the parameters above the encoder that compute it.
        share: its weight in the loss of all soft targets.
    """

    output: str
    weights: str
    kind: SoftTargetKind = "classes"
    parameters: tuple[str, ...] = ()
    share: float = 1.0


@dataclass(frozen=True)
class Lesson:
    """What a student learns from its teacher.

    Attributes:
        targets: the outputs to match.
        layers: the teacher's layer for each layer of the student, numbered from 0.
        weight: of the soft-target loss; the student's own loss has the weight 1 - `weight`.
        temperature: divides the logits of both models.
        hidden_weight, attention_weight: of the losses of hidden states and attention; 0 omits them.
    """

    targets: tuple[SoftTarget, ...]
    layers: tuple[int, ...]
    weight: float = 0.5
    temperature: float = 1.0
    hidden_weight: float = 0.0
    attention_weight: float = 0.0


class Distilled(PretrainedModel):
    """A model that may have a teacher; see `distilled`. Without a teacher, it behaves like its student class."""

    student_class: type[PretrainedModel]
    lesson: Lesson | None = None

    def learn_from(self, teacher: PretrainedModel, lesson: Lesson) -> None:
        """Adds the terms of the lesson to the loss. Freezes the teacher and keeps it in evaluation mode."""
        self.lesson = lesson
        for parameter in teacher.parameters():
            parameter.requires_grad_(False)
        self.teacher = teacher.eval()
        if lesson.hidden_weight and teacher.config.hidden_size != self.config.hidden_size:
            self.hidden_projection = nn.Linear(self.config.hidden_size, teacher.config.hidden_size)
            init_weights(self.hidden_projection, self.config, self.seed + 2)
        self.unused = (*self.unused, _TEACHER, _PROJECTION)
        self.training_only = (*self.training_only, _PROJECTION)

    def forward(self, **batch: Any) -> dict[str, flow.Tensor]:
        """The outputs of the student's class.

        In training, also the scalars `label_loss`, the loss of that class; `distill_loss`, `distill_hidden_loss` and
        `distill_attention_loss`, where they have weights above 0; and as `total_loss` their weighted sum.
        """
        lesson = self.lesson
        if lesson is None or not self.training or batch.get("example_weights") is None:
            return cast(dict[str, flow.Tensor], self.student_class.forward(self, **batch))
        inputs = {name: batch[name] for name in _INPUTS if name in batch}
        position = dropout.get_state()
        with flow.no_grad(), trace.recording(lesson.layers[-1]) as teachers:
            targets = self.teacher(**inputs)
        dropout.set_state(position)  # not counted, so dropout masks are those of a run without a teacher
        with trace.recording(len(lesson.layers) - 1) as own:
            outputs = self.student_class.forward(self, **batch)
        terms = {}
        if lesson.weight:
            terms["distill_loss"] = _soft_target_loss(lesson, outputs, targets, batch), lesson.weight
        if lesson.hidden_weight:
            wanted = [teachers.hidden[0], *(teachers.hidden[layer + 1] for layer in lesson.layers)]  # [R, H]
            found = own.hidden
            if wanted[0].shape[1] != found[0].shape[1]:
                found = [self.hidden_projection(hidden) for hidden in found]
            terms["distill_hidden_loss"] = _mean(hidden_losses(found, wanted), batch), lesson.hidden_weight
        if lesson.attention_weight:
            heads = math.gcd(self.config.num_attention_heads, self.teacher.config.num_attention_heads)
            items = relation_losses(own.attention, teachers.attention, own.rows, heads)  # [R]
            terms["distill_attention_loss"] = _mean(items, batch), lesson.attention_weight
        outputs["label_loss"] = outputs["total_loss"]
        outputs["total_loss"] = outputs["total_loss"] * (1 - lesson.weight)
        for name, (loss, weight) in terms.items():
            outputs[name] = loss
            outputs["total_loss"] = outputs["total_loss"] + loss * weight
        return outputs

    def train(self, mode: bool = True) -> Distilled:
        """As for every module, but the teacher stays in evaluation mode."""
        super().train(mode)
        if self.lesson:
            self.teacher.eval()
        return self

    def own_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The student's parameters, including the projection."""
        return ((name, each) for name, each in self.named_parameters() if not name.startswith(_TEACHER))


def distilled(kind: type[PretrainedModel]) -> type[PretrainedModel]:
    """The subclass of `kind` and `Distilled` whose models can learn from a teacher."""
    members = {"student_class": kind, "architecture": kind.architecture or kind.__name__}
    return type(f"Distilled{kind.__name__}", (Distilled, kind), members)


def even_layers(student: int, teacher: int) -> tuple[int, ...]:
    """The teacher's layer for each layer of the student, numbered from 0: evenly spaced, ending with the last."""
    return tuple(max(1, round(number * teacher / student)) - 1 for number in range(1, student + 1))


def _soft_target_loss(
    lesson: Lesson,
    outputs: Mapping[str, flow.Tensor],
    targets: Mapping[str, flow.Tensor],
    batch: Mapping[str, Any],
) -> flow.Tensor:
    """The loss of all soft targets, a scalar; `outputs` are the student's, `targets` the teacher's."""
    parts = []
    for target in lesson.targets:
        name, weights = target.output, batch[target.weights].reshape(-1)
        pair = in_fp32(outputs[name]), in_fp32(targets[name])
        if target.kind == "vectors":
            pair = tuple(each.reshape(*batch["input_ids"].shape[:2], -1) for each in pair)  # [B, T, H]
        items = soft_target_losses(target.kind, *pair, lesson.temperature)
        parts.append(losses.reduce(items, weights, batch.get("loss_reduction", "mean")) * target.share)
    return sum(parts[1:], parts[0])


def soft_target_losses(kind: str, scores: flow.Tensor, targets: flow.Tensor, temperature: float) -> flow.Tensor:
    """The loss of each item, [K].

    Classes: the Kullback-Leibler divergence of the probabilities at the temperature T, times T², so that the gradient
    does not depend on T (Hinton et al. 2015). Labels: the mean over the labels of the divergence of
    their two outcomes. Numbers:
    the squared error. Vectors: the mean of 1 - cosine over the texts of a row.

    Args:
        kind: as for `SoftTarget`.
        scores, targets: the outputs of the student and of the teacher, [..., C], or [K, T, H] for vectors.
        temperature: T.
    """
    if kind == "classes":
        width = scores.shape[-1]
        return _divergence(scores.reshape(-1, width), targets.reshape(-1, width), temperature)
    if kind == "labels":
        pairs = [flow.stack([each, flow.zeros_like(each)], dim=-1).reshape(-1, 2) for each in (scores, targets)]
        return _divergence(pairs[0], pairs[1], temperature).reshape(scores.shape).mean(dim=-1)
    if kind == "numbers":
        return ((scores - targets) * (scores - targets)).mean(dim=-1)
    return 1 - (normalized(scores) * normalized(targets)).sum(dim=-1).mean(dim=1)


def _divergence(scores: flow.Tensor, targets: flow.Tensor, temperature: float) -> flow.Tensor:
    """T² KL(teacher, student) of each row, [K]; scores and targets [K, C]."""
    logs = F.log_softmax(targets / temperature, dim=-1)
    difference = logs - F.log_softmax(scores / temperature, dim=-1)
    return (flow.exp(logs) * difference).sum(dim=-1) * temperature**2


def hidden_losses(found: list[flow.Tensor], wanted: list[flow.Tensor]) -> flow.Tensor:
    """The mean squared error of each token's hidden state, summed over pairs of layers (TinyBERT, Jiao et al. 2020).

    Args:
        found, wanted: [R, H] each, of the student and of the teacher.

    Returns:
        [R].
    """
    errors = [in_fp32(own) - in_fp32(other) for own, other in zip(found, wanted, strict=True)]
    items = [(error * error).mean(dim=-1) for error in errors]
    return sum(items[1:], items[0])


def relation_losses(
    found: tuple[flow.Tensor, ...], wanted: tuple[flow.Tensor, ...], rows: Rows | None, heads: int
) -> flow.Tensor:
    """The divergence of each token's self-attention relations (MiniLMv2, Wang et al. 2021).

    The relation of queries is softmax(Q Qᵀ / √d) over the tokens of the same sequence, those of keys and values
    likewise. The result is the mean over these three and over the relation heads, which need not be the models' heads,
    so that widths and numbers of heads may differ.

    Args:
        found, wanted: query, key and value, [R, H] each, of the student and of the teacher.
        rows: which token belongs to which sequence.
        heads: `N`, the number of relation heads.

    Returns:
        [R].
    """
    assert rows is not None
    hidden = (1.0 - visible(rows, None).to(found[0].dtype)) * ops.MASKED_SCORE  # [B, 1, 1 or S, S]
    items = []
    for own, other in zip(found, wanted, strict=True):
        scores, targets = (in_fp32(_relations(each, rows, heads)) + hidden for each in (own, other))  # [B, N, S, S]
        width = scores.shape[-1]
        divergence = _divergence(scores.reshape(-1, width), targets.reshape(-1, width), 1.0)
        items.append(divergence.reshape(scores.shape[0], heads, width).mean(dim=1))  # [B, S]
    return (sum(items[1:], items[0]) / len(items)).reshape(-1)


def _relations(x: flow.Tensor, rows: Rows, heads: int) -> flow.Tensor:
    """x xᵀ / √d of each relation head, [B, N, S, S]; x [R, H]."""
    split = x.reshape(*rows.numbers.shape, heads, x.shape[1] // heads).permute(0, 2, 1, 3)  # [B, N, S, d]
    return flow._C.matmul(split, split, transpose_b=True) / math.sqrt(x.shape[1] // heads)


def _mean(items: flow.Tensor, batch: Mapping[str, Any]) -> flow.Tensor:
    """The weighted mean over the rows of a batch, a scalar; items [R]."""
    weights = batch["example_weights"].reshape(-1)
    return losses.reduce(mean_over_tokens(items, batch), weights, batch.get("loss_reduction", "mean"))


def mean_over_tokens(items: flow.Tensor, batch: Mapping[str, flow.Tensor]) -> flow.Tensor:
    """The mean over the tokens of each row, [B]; padding does not count.

    Args:
        items: [R], in the order of the encoder's hidden states.
        batch: the model's inputs; a row may have several texts, which count the same.
    """
    mask = batch["input_mask"]  # [B, S] or [B, T, S]
    if batch.get("packed_tokens") is not None:
        groups = batch["packed_tokens"].shape[0]
        places = batch["packed_places"].reshape(groups, -1)
        items = flow._C.batch_gather(items.reshape(groups, -1, 1), places)  # [G, B*S/G, 1]
    keep = mask.reshape(-1, mask.shape[-1]).to(items.dtype)
    means = (items.reshape(keep.shape) * keep).sum(dim=1) / flow.clamp(keep.sum(dim=1), min=1.0)
    return means.reshape(mask.shape[0], -1).mean(dim=1)
