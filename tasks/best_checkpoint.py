"""The checkpoint of a run with the highest score."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from configs.model import BertConfig
from conversion.tokenizer_files import Vocabulary
from modeling.pretrained import WEIGHTS_FILE, PretrainedModel, read_weights
from training.evaluator import Evaluator, Say
from training.step import place_model

BEST, SCORE_FILE = "best", "score.json"


@dataclass
class BestCheckpoint:
    """The checkpoint with the highest score so far, as a model directory."""

    directory: Path
    score: float = -math.inf

    @classmethod
    def of(cls, output_dir: str | Path, *, continued: bool) -> BestCheckpoint:
        """The best checkpoint in a run's directory, if the run that left it is `continued`; else none yet."""
        directory = Path(output_dir) / BEST
        if not continued or not (directory / SCORE_FILE).exists():
            return cls(directory)
        return cls(directory, json.loads((directory / SCORE_FILE).read_text())["score"])

    def offer(self, score: float, evaluator: Evaluator, vocabulary: Vocabulary | None, say: Say) -> None:
        """Saves the evaluator's model if its score is the highest."""
        if score <= self.score:
            return
        self.score, model = score, evaluator.model
        arrays = model.to_arrays()  # on all ranks, because tensors may be global
        if evaluator.world.shape.is_first:
            partial_directory = self.directory.with_name(f".{self.directory.name}.partial")
            shutil.rmtree(partial_directory, ignore_errors=True)
            files = vocabulary.files(model.config.max_position_embeddings) if vocabulary else {}
            model.save_pretrained(partial_directory, arrays, files)
            (partial_directory / SCORE_FILE).write_text(json.dumps({"score": score}) + "\n")
            shutil.rmtree(self.directory, ignore_errors=True)
            partial_directory.rename(self.directory)
        evaluator.world.barrier()  # the other ranks read it later
        say(f"the best so far, {score:.4f}: {self.directory}")

    def evaluator(self, evaluator: Evaluator, bert: BertConfig) -> Evaluator:
        """The same evaluator for the saved model."""
        model: PretrainedModel = type(evaluator.model)(bert)
        model.load_arrays(read_weights(self.directory / WEIGHTS_FILE), source=str(self.directory))
        return evaluator.with_model(place_model(evaluator.mode, model, evaluator.world))
