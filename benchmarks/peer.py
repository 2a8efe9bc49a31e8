"""Hugging Face's side of the benchmark: transformers on PyTorch at its best settings (sdpa attention, fused AdamW, bf16
autocast, inference mode). It runs in an environment of its own.

The kind "as_it_comes" is what a user gets. "same_work" does the same work as this project: it decodes only the masked
positions, sorts sentences by length before batching, and in bf16 inference converts the weights only once. "compiled"
is "same_work" with torch.compile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertModel,
    ModernBertConfig,
    ModernBertForQuestionAnswering,
    ModernBertModel,
)

from benchmarks.worker import ENCODER, LENGTH, PREDICTIONS, ROWS, Case, sentence_lengths, serve


def make_step(case: Case) -> Callable[[], None]:
    """A function that runs one step of the case."""
    torch.manual_seed(0)
    if case.threads:
        torch.set_num_threads(case.threads)
    make = {"pretraining": _pretraining_step, "squad": _squad_step, "encoder_step": _squad_step}.get(
        case.task, _inference_step
    )
    return make(case)


def _config() -> BertConfig:
    return BertConfig(attn_implementation="sdpa")


@contextmanager
def _precision(bf16: bool) -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
        yield


def _training_step(case: Case, model: torch.nn.Module, loss_of: Callable[[], torch.Tensor]) -> Callable[[], None]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, eps=1e-6, weight_decay=0.01, fused=True)
    if case.kind == "compiled":
        loss_of = torch.compile(loss_of)

    def step() -> None:
        with _precision(case.precision == "bf16"):
            loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


def _pretraining_step(case: Case) -> Callable[[], None]:
    model = BertForPreTraining(_config())
    rows, length = ROWS[case.task], LENGTH[case.task]
    ids = torch.randint(1000, 30000, (rows, length))
    positions = torch.rand(rows, length).argsort(1)[:, :PREDICTIONS].sort(1).values
    masked_ids = torch.randint(1000, 30000, (rows, PREDICTIONS))
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
    }
    next_sentence = torch.randint(0, 2, (rows,))
    labels = torch.full_like(ids, -100).scatter(1, positions, masked_ids)

    def as_it_comes() -> torch.Tensor:
        return model(**inputs, labels=labels, next_sentence_label=next_sentence).loss

    def same_work() -> torch.Tensor:
        outputs = model.bert(**inputs)
        picked = outputs.last_hidden_state.gather(1, positions[..., None].expand(-1, -1, model.config.hidden_size))
        scores, relationship = model.cls(picked, outputs.pooler_output)
        masked_lm_loss = cross_entropy(scores.flatten(0, 1).float(), masked_ids.flatten())
        return masked_lm_loss + cross_entropy(relationship.float(), next_sentence)

    return _training_step(case, model, as_it_comes if case.kind == "as_it_comes" else same_work)


def _squad_step(case: Case) -> Callable[[], None]:
    if case.task in ENCODER:
        model = ModernBertForQuestionAnswering(ModernBertConfig(attn_implementation="sdpa"))
    else:
        model = BertForQuestionAnswering(_config())
    rows, length = ROWS[case.task], LENGTH[case.task]
    ids = torch.randint(1000, 30000, (rows, length))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if case.task not in ENCODER:
        inputs["token_type_ids"] = torch.zeros_like(ids)
    ends = {"start_positions": torch.randint(0, length, (rows,)), "end_positions": torch.randint(0, length, (rows,))}
    return _training_step(case, model, lambda: model(**inputs, **ends).loss)


def _inference_step(case: Case) -> Callable[[], None]:
    modern = case.task in ENCODER
    model = ModernBertModel(ModernBertConfig(attn_implementation="sdpa")) if modern else BertModel(_config())
    model = model.eval()
    lengths = sentence_lengths() if case.task == "inference_32" else [LENGTH[case.task]] * ROWS[case.task]
    if case.kind != "as_it_comes":
        lengths.sort()
    if case.precision == "bf16" and case.kind != "as_it_comes":
        model = model.to(torch.bfloat16)  # converted once, as ours are
    run = torch.compile(model, dynamic=True) if case.kind == "compiled" else model
    batches = []
    for first in range(0, len(lengths), ROWS[case.task]):
        part = torch.tensor(lengths[first : first + ROWS[case.task]])
        width = int(part.max())
        mask = (torch.arange(width) < part[:, None]).long()
        batches.append({"input_ids": torch.randint(1000, 30000, mask.shape), "attention_mask": mask})

    def step() -> None:
        with torch.inference_mode(), _precision(case.precision == "bf16"):
            for batch in batches:
                outputs = run(**batch)
                (outputs.last_hidden_state if modern else outputs.pooler_output).float().numpy()

    return step


if __name__ == "__main__":
    serve(make_step)
