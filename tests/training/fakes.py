"""Stand-ins for a task, a model and a step, so that the parts of a run are tested without training a BERT."""

import numpy as np
import oneflow as flow
from oneflow import nn

from configs.model import BertConfig
from data.reading.loader import Records
from launch.job_shape import JobShape
from modeling.pretrained import PretrainedModel
from training.distributed import World
from training.task import Task
from training.terms import Figure, LossTerm

ALONE = World(JobShape(), "cpu")


class Numbers:
    """A record source: record n is n in `input_ids`, of n + 1 tokens out of `length`, with weight n % 3."""

    def __init__(self, count, length=5):
        self.count, self.length = count, length

    def __len__(self):
        return self.count

    def read(self, indices):
        inside = np.arange(self.length) <= indices[:, None] % self.length
        return {
            "input_ids": np.repeat(indices[:, None], self.length, 1).astype(np.int32),
            "input_mask": inside.astype(np.int32),
            "segment_ids": np.zeros((len(indices), self.length), np.int32),
            "item_weights": (indices[:, None] % 3).astype(np.float32),
            "unread": np.zeros((len(indices), 1), np.int32),
        }

    def location(self, index):
        return f"record {index}"


class SumModel(PretrainedModel):
    """Its loss is the weighted sum of the records' numbers; `numbers` gives them back."""

    def __init__(self, config=None, seed=0):
        super().__init__(config or BertConfig(num_hidden_layers=1, hidden_size=12, vocab_size=37), seed)
        self.extra = nn.Parameter(flow.zeros(2))

    def forward(self, input_ids, input_mask, segment_ids, item_weights=None, example_weights=None, loss_reduction=""):
        numbers = input_ids.to(self.extra.dtype)
        outputs = {"numbers": numbers}
        if item_weights is not None:
            weighted = numbers[:, 0] * item_weights[:, 0]
            outputs["item_loss"] = (weighted * example_weights).sum()
            outputs["row_loss"] = (numbers[:, 0] * example_weights).sum()
            outputs["total_loss"] = outputs["item_loss"] + outputs["row_loss"]
        return outputs


ITEM_TERM = LossTerm(
    Figure("item_loss", "item_weights", in_log_line=True),
    labels=("item_weights",),
    others=(Figure("item_share", "item_weights", label="share", in_log_line=True), Figure("hidden", "item_weights")),
)
ROW_TERM = LossTerm(Figure("row_loss", "example_weights"), labels=())


class SumTask(Task):
    """Evaluates by a given function, and counts the evaluations."""

    model_class, terms, judged_by = SumModel, (ITEM_TERM, ROW_TERM), "eval_sum"

    def __init__(self, evaluate=lambda: {"eval_sum": 1.0}, *, evaluates=True, training=None, seq_length=5):
        super().__init__(
            bert=BertConfig(),
            vocabulary=None,
            seq_length=seq_length,
            training=Records(Numbers(7)) if training is None else training,
            evaluation=(),
            evaluates=evaluates,
            predictions=2,
        )
        object.__setattr__(self, "function", evaluate)

    def evaluate(self, evaluator, say):
        return self.function()


class FakeStep:
    """A step that remembers its batches, and whose outputs and first bad update are given."""

    def __init__(self, outputs=None, first_bad=None):
        self.batches, self.outputs, self.first_bad = [], outputs or {}, first_bad

    def first_bad_update(self):
        return self.first_bad

    def __call__(self, batch):
        self.batches.append(batch)
        number = len(self.batches)
        return lambda: {"total_loss": float(number), **self.outputs.get(number, {})}

    def state(self):
        return {"w.m": np.full(2, len(self.batches), np.float32)}
