"""Keeps the best checkpoint of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from configs.model import BertConfig
from conversion.tokenizer_files import Vocabulary
from modeling.pretrained import WEIGHTS_FILE, PretrainedModel, read_weights
from training.evaluator import Evaluator, Say
from training.finiteness import NotFiniteError, check_finite, diverged
from training.run_directory import BEST, SCORE_FILE
from training.step import place_model
from utils.atomic_files import atomic_directory
from utils.errors import UserError
from utils.file_lock import check_still_there
from utils.json_file import read_settings, write_json


@dataclass
class BestCheckpoint:
    """The checkpoint with the highest score so far, as a model directory."""

    directory: Path
    score: float = -math.inf

    @classmethod
    def of(cls, output_dir: str | Path, *, continued: bool) -> BestCheckpoint:
        """The best checkpoint in a run's directory if that run is `continued`; otherwise none yet."""
        directory = Path(output_dir) / BEST
        if not continued or not (directory / SCORE_FILE).exists():
            return cls(directory)
        score = read_settings(directory / SCORE_FILE).get("score")
        if not isinstance(score, int | float):
            raise UserError(f"{directory / SCORE_FILE} has no score: delete {directory} and resume again.")
        return cls(directory, score)

    def offer(self, score: float, evaluator: Evaluator, vocabulary: Vocabulary | None, say: Say) -> None:
        """Saves the evaluator's model if its score is the highest."""
        if score <= self.score:
            return
        self.score, model = score, evaluator.model
        arrays = model.to_arrays()  # on all ranks, because tensors may be global
        if evaluator.world.shape.is_first:
            check_still_there(self.directory.parent)
            try:
                check_finite(arrays, "the weights")
            except NotFiniteError as error:
                raise diverged(error, self.directory if self.directory.exists() else None) from None
            files = vocabulary.files(model.config.max_position_embeddings) if vocabulary else {}
            with atomic_directory(self.directory) as partial:
                model.save_pretrained(partial, arrays, files)
                write_json(partial / SCORE_FILE, {"score": score})
        evaluator.world.barrier()  # the other ranks read it afterwards
        say(f"new best score {score:.4f}, saved in {self.directory}")

    def evaluator(self, evaluator: Evaluator, bert: BertConfig) -> Evaluator:
        """The same evaluator for the saved model."""
        model: PretrainedModel = type(evaluator.model)(bert)
        model.load_arrays(read_weights(self.directory / WEIGHTS_FILE), source=str(self.directory))
        return evaluator.with_model(place_model(evaluator.mode, model, evaluator.world))
