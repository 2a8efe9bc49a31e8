"""Checks that --tensor_parallel supports the other flags and the model."""

from __future__ import annotations

import kernels
from configs.model import BertConfig
from modeling.electra import ReplacedTokenModel
from modeling.embedding import BertForEmbedding
from modeling.pretrained import PretrainedModel
from training.config import TrainingConfig
from training.distributed import World
from utils.errors import UserError

_UNSUPPORTED: tuple[type[PretrainedModel], ...] = (ReplacedTokenModel, BertForEmbedding)


def check_flags(mode: str, config: TrainingConfig, world: World) -> None:
    """Raises UserError if --tensor_parallel does not support the mode, the device or another flag."""
    ranks = world.shape.ranks_per_replica
    if ranks == 1:
        return
    if mode == "eager":
        raise UserError(
            f"--tensor_parallel {ranks} only works in graph mode, where OneFlow adds up the partial results of the "
            "ranks: use run_pretraining.py or --mode graph, or omit the flag."
        )
    if world.device != "cpu" or not kernels.is_loaded():
        raise UserError(
            f"--tensor_parallel {ranks} needs a CPU and the CPU kernels, because other kernels draw different dropout "
            "masks on ranks that share a model: build the kernels with `python -m kernels build`, or omit the flag."
        )
    if config.optimizer.skip_loss_spikes:
        raise UserError(
            f"--skip_loss_spikes does not work with --tensor_parallel {ranks}, because no rank knows the gradient "
            "norm of the whole model before the update: omit one of them."
        )
    if config.distillation.teacher:
        raise UserError(
            f"--teacher does not work with --tensor_parallel {ranks}, because it compares complete layers: "
            "omit one of them."
        )
    if config.batch.without_padding:
        raise UserError(
            f"{config.batch.without_padding} does not work with --tensor_parallel {ranks}, because packed rows are "
            "gathered on one rank: use --padding longest."
        )


def check_model(kind: type[PretrainedModel], bert: BertConfig, world: World) -> None:
    """Raises UserError if this model cannot be split into equal parts."""
    ranks = world.shape.ranks_per_replica
    if ranks == 1:
        return
    if issubclass(kind, _UNSUPPORTED):
        raise UserError(
            f"--tensor_parallel {ranks} does not support replaced-token detection and embedding training: omit "
            "the flag."
        )
    if bert.position_embeddings not in ("learned", "sinusoidal") or bert.embedding_size or not bert.tied_decoder:
        raise UserError(
            f"--tensor_parallel {ranks} does not support rotary or ALiBi positions, projected embeddings or an untied "
            "decoder: omit the flag."
        )
    sizes = {
        "num_attention_heads": bert.num_attention_heads,
        "intermediate_size": bert.intermediate_size,
        "vocab_size": bert.vocab_size,
    }
    for name, size in sizes.items():
        if size % ranks:
            raise UserError(
                f"--tensor_parallel {ranks} does not divide the model's {name}, {size}: use "
                f"--{name} {size + ranks - size % ranks}, or another number of ranks."
            )
