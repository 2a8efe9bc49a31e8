"""ELECTRA (Clark et al. 2020, google-research/electra): a generator fills in masks, a discriminator finds what changed.

Parameters have the names of Hugging Face's ElectraForPreTraining; those of the generator begin with `generator`.

Shapes: `B` batch, `S` sequence, `H` hidden, `G` the generator's hidden, `P` predictions per sequence, `V` vocabulary.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import oneflow as flow
import oneflow.nn.functional as F
from oneflow import nn

from configs.model import BertConfig
from modeling import dropout, losses, ops
from modeling.attention import Rows
from modeling.bert import BertModel, Dense, Embeddings, Encoder, LayerNorm, init_weights
from modeling.pretrained import (
    CONFIG_FILE,
    ENCODER,
    GENERATOR_DIRECTORY,
    WEIGHTS_FILE,
    PretrainedModel,
    read_weights,
    write_weights,
)
from utils.errors import UserError

_DISCRIMINATOR = "electra."
_OWN_OF_GENERATOR = re.compile(r"^electra\.(?=encoder\.|embeddings_project\.)")  # what the discriminator does not share


def generator_config(config: BertConfig, width: float) -> BertConfig:
    """The shape of a generator whose layers are `width` times as wide as the discriminator's, in whole heads."""
    heads = max(1, round(config.num_attention_heads * width))
    return replace(
        config,
        num_attention_heads=heads,
        hidden_size=heads * (config.hidden_size // config.num_attention_heads),
        intermediate_size=max(1, round(config.intermediate_size * width)),
    )


class ReplacedTokenModel(PretrainedModel):
    """A discriminator, and a generator that shares its embeddings.

    Args:
        config: the discriminator's shape.
        seed: of the initial weights.
        width: of the generator, relative to the discriminator.
        loss_weight: of the discriminator's loss; the generator's has weight 1.

    Raises:
        UserError: the encoder is a variant of BERT's, which ELECTRA's directories cannot describe.
    """

    architecture = "ElectraForPreTraining"

    def __init__(self, config: BertConfig, seed: int = 0, width: float = 0.25, loss_weight: float = 50.0) -> None:
        super().__init__(config, seed)
        if config.is_variant:
            raise UserError(
                "--objective rtd only supports BERT's encoder: omit --norm and the other flags that change it."
            )
        self.loss_weight, self.width = loss_weight, width
        self.electra = Discriminator(config)
        self.discriminator_predictions = DiscriminatorHead(config)
        self.generator = Generator(generator_config(config, width), config)
        self.generator_predictions = GeneratorHead(generator_config(config, width), config)
        self.generator_lm_head = Bias(config.vocab_size)
        init_weights(self, config, seed)

    def forward(
        self,
        input_ids: flow.Tensor,
        input_mask: flow.Tensor,
        segment_ids: flow.Tensor,
        masked_lm_positions: flow.Tensor,
        masked_lm_ids: flow.Tensor,
        masked_lm_weights: flow.Tensor,
        sampling_draws: flow.Tensor,
        token_weights: flow.Tensor,
        example_weights: flow.Tensor | None = None,
        loss_reduction: str = "mean",
    ) -> dict[str, flow.Tensor]:
        """Fill in the masks, replace them with samples, and find the tokens that differ from the original ones.

        Args:
            input_ids, input_mask, segment_ids: as for `BertModel`; the ids hold [MASK].
            masked_lm_positions, masked_lm_ids, masked_lm_weights: as for `BertForPreTraining`.
            sampling_draws: float [B, P], uniform in [0, 1); each decides one sample.
            token_weights: float [B, S], 1 for tokens and 0 for padding.
            example_weights: not used: a row that pads the batch has no other weights.
            loss_reduction: as for `BertForPreTraining`.

        Returns:
            `prediction_scores` [B, P, V], `corrupted_ids` [B, S] and `detection_logits` [B, S]; the scalars `mlm_loss`,
            `mlm_accuracy` (in evaluation mode only), `rtd_loss` and `rtd_accuracy`; the shares of all tokens that were
            replaced, that the discriminator calls replaced, and for which both hold: `rtd_replaced`, `rtd_flagged`
            and `rtd_found`; and `total_loss`.
        """
        batch, length = input_ids.shape
        dropout.restart()
        rows = Rows(input_mask)
        embedded = self.electra.embeddings(input_ids, segment_ids)  # [B*S, H]
        hidden = self.generator(embedded, rows).reshape(batch, length, -1)  # [B, S, G]
        hidden = flow._C.batch_gather(hidden, masked_lm_positions)  # [B, P, G]
        predictions = hidden.shape[1]
        transformed = self.generator_predictions(hidden.reshape(batch * predictions, -1))  # [B*P, H]
        words = self.electra.embeddings.word_embeddings.weight  # [V, H], tied
        scores = flow._C.matmul(transformed, words, transpose_b=True) + self.generator_lm_head.bias  # [B*P, V]
        labels, weights = masked_lm_ids.reshape(-1), masked_lm_weights.reshape(-1)  # [B*P]
        outputs = {"prediction_scores": scores.reshape(batch, predictions, -1)}
        outputs["mlm_loss"] = losses.cross_entropy(scores, labels, weights, loss_reduction)
        if not self.training:
            outputs["mlm_accuracy"] = losses.accuracy(scores, labels, weights, loss_reduction)

        samples = sample(scores, sampling_draws.reshape(-1, 1)).reshape(batch, predictions)  # float [B, P]
        used = (masked_lm_weights > 0).to(scores.dtype)  # [B, P]
        changed = (samples != masked_lm_ids.to(scores.dtype)).to(scores.dtype) * used  # [B, P]
        at = F.one_hot(masked_lm_positions, length).to(scores.dtype)  # [B, P, S]
        covered, replaced, new = (_place(values, at) for values in (used, changed, samples * used))  # [B, S]
        corrupted = (input_ids.to(scores.dtype) * (1 - covered) + new).to(input_ids.dtype)  # [B, S]
        outputs["corrupted_ids"] = corrupted
        found = self.electra.encoder(self.electra.embeddings(corrupted, segment_ids), rows)  # [B*S, H]
        logits = self.discriminator_predictions(found)  # [B*S, 1]
        outputs["detection_logits"] = logits.reshape(batch, length)
        outputs |= detection(logits, replaced.reshape(-1, 1), token_weights.reshape(-1), loss_reduction)
        outputs["total_loss"] = outputs["mlm_loss"] + outputs["rtd_loss"] * self.loss_weight
        return outputs

    def load_arrays(
        self, arrays: Mapping[str, np.ndarray], *, source: str, optional: tuple[str, ...] = ("",)
    ) -> list[str]:
        """As for every model; without a generator in the source, the generator keeps its initial weights.

        `conversion` reads the discriminator's encoder under BERT's names; the rest is read here.
        """
        named = {re.sub(f"^{re.escape(ENCODER)}", _DISCRIMINATOR, name): array for name, array in arrays.items()}
        stored = Path(source), Path(source) / GENERATOR_DIRECTORY
        if all((directory / WEIGHTS_FILE).is_file() for directory in stored):
            discriminator, generator = (read_weights(directory / WEIGHTS_FILE) for directory in stored)
            named |= {
                _OWN_OF_GENERATOR.sub("generator.", name): array for name, array in generator.items()
            } | discriminator
        own = {name for name, _ in self.named_parameters()}
        named = {name: array for name, array in named.items() if name in own}
        return super().load_arrays(named, source=source, optional=optional)

    def save_pretrained(
        self,
        directory: str | Path,
        arrays: dict[str, np.ndarray] | None = None,
        tokenizer: Mapping[str, bytes] | None = None,
    ) -> None:
        """Writes the model directory, and in `generator/` the generator, which loads as ElectraForMaskedLM."""
        arrays = self.to_arrays() if arrays is None else arrays
        own = {name: array for name, array in arrays.items() if not name.startswith("generator")}
        super().save_pretrained(directory, own, tokenizer)
        discriminator, generator = Path(directory), Path(directory) / GENERATOR_DIRECTORY
        _write_config(discriminator, self.config, self.architecture, self.config.hidden_size)
        generator.mkdir(exist_ok=True)
        narrow = generator_config(self.config, self.width)
        _write_config(generator, narrow, "ElectraForMaskedLM", self.config.hidden_size)
        filling = {
            re.sub(r"^generator\.", _DISCRIMINATOR, name): array
            for name, array in arrays.items()
            if name.startswith(("electra.embeddings.", "generator"))
        }
        write_weights(generator / WEIGHTS_FILE, filling)
        for name, content in (tokenizer or {}).items():
            (generator / name).write_bytes(content)


class Discriminator(nn.Module):
    """BERT's embeddings and encoder, without a pooler.

    It has no `forward`: in nn.Graph, a module that is used twice, as the embeddings are, must be called from the same
    module each time.
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)


class ReplacedTokenDetector(PretrainedModel):
    """A trained discriminator on its own, with its encoder under BERT's names."""

    def __init__(self, config: BertConfig, seed: int = 0) -> None:
        super().__init__(config, seed)
        self.bert = BertModel(config, seed)
        self.discriminator_predictions = DiscriminatorHead(config)
        init_weights(self.discriminator_predictions, config, seed + 1)

    def forward(
        self, input_ids: flow.Tensor, input_mask: flow.Tensor | None = None, segment_ids: flow.Tensor | None = None
    ) -> dict[str, flow.Tensor]:
        """BertModel's outputs, and `logits` [B, S], above 0 for a token that was probably replaced."""
        outputs = self.bert(input_ids, input_mask, segment_ids)
        sequence = outputs["sequence_output"]  # [B, S, H]
        found = self.discriminator_predictions(sequence.reshape(-1, sequence.shape[2]))  # [B*S, 1]
        return outputs | {"logits": found.reshape(*input_ids.shape)}


class Generator(nn.Module):
    """A narrower encoder on projected embeddings of the discriminator."""

    def __init__(self, config: BertConfig, discriminator: BertConfig) -> None:
        super().__init__()
        self.same_width = config.hidden_size == discriminator.hidden_size
        self.embeddings_project = (
            nn.Identity() if self.same_width else nn.Linear(discriminator.hidden_size, config.hidden_size)
        )
        self.encoder = Encoder(config)

    def forward(self, embedded: flow.Tensor, rows: Rows) -> flow.Tensor:
        """embedded [B*S, H] -> [B*S, G]."""
        return self.encoder(self.embeddings_project(embedded), rows)


class GeneratorHead(nn.Module):
    """LayerNorm(GELU(dense(x))), back to the width of the embeddings."""

    def __init__(self, config: BertConfig, discriminator: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, discriminator.hidden_size)
        self.LayerNorm = LayerNorm(discriminator)

    def forward(self, hidden: flow.Tensor) -> flow.Tensor:
        """[R, G] -> [R, H]."""
        projected = flow._C.matmul(hidden, self.dense.weight, transpose_b=True)
        return self.LayerNorm(ops.bias_gelu(projected, self.dense.bias))


class DiscriminatorHead(Dense):
    """The logit of a token that was replaced."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config.hidden_size, config.hidden_size, config)
        self.dense_prediction = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: flow.Tensor) -> flow.Tensor:
        """[R, H] -> [R, 1]."""
        projected = flow._C.matmul(hidden, self.dense.weight, transpose_b=True)
        return self.dense_prediction(ops.bias_gelu(projected, self.dense.bias))


class Bias(nn.Module):
    """A bias under a name of its own."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(flow.zeros(size))


def sample(scores: flow.Tensor, draws: flow.Tensor) -> flow.Tensor:
    """A token for each row of softmax(scores) by its cumulative distribution, as a float [R]; no gradient flows.

    Args:
        scores: [R, V].
        draws: [R, 1], uniform in [0, 1).
    """
    cumulative = flow.cumsum(flow.softmax(scores.detach(), dim=-1), -1)  # [R, V]
    found = flow.searchsorted(cumulative, draws).to(scores.dtype).reshape(-1)
    return flow.clamp(found, max=scores.shape[1] - 1)  # rounding may leave the last sum below a draw


def detection(
    logits: flow.Tensor, replaced: flow.Tensor, weights: flow.Tensor, reduction: str
) -> dict[str, flow.Tensor]:
    """The discriminator's loss, accuracy and shares of tokens, see `ReplacedTokenModel`; logits and replaced [R, 1]."""
    flagged = (logits.detach() > 0).to(logits.dtype)
    items = {
        "rtd_accuracy": (flagged == replaced).to(logits.dtype),
        "rtd_replaced": replaced,
        "rtd_flagged": flagged,
        "rtd_found": flagged * replaced,
    }
    loss = losses.binary_cross_entropy(logits, replaced, None, weights, reduction)
    return {
        "rtd_loss": loss,
        **{name: losses.reduce(item.reshape(-1), weights, reduction) for name, item in items.items()},
    }


def _place(values: flow.Tensor, at: flow.Tensor) -> flow.Tensor:
    """The values [B, P] at their positions, one-hot [B, P, S], and 0 elsewhere: [B, S]."""
    batch, predictions, length = at.shape
    return flow._C.matmul(values.reshape(batch, 1, predictions), at).reshape(batch, length)


def _write_config(directory: Path, config: BertConfig, architecture: str, embedding_size: int) -> None:
    content = config.to_huggingface(architecture) | {"model_type": "electra", "embedding_size": embedding_size}
    (directory / CONFIG_FILE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
