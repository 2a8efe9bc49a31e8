"""Fine-tunes for question answering: from features to answers and their scores."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from tokenizers import Tokenizer

from configs.model import BertConfig
from configs.squad import FeatureFlags, SquadConfig, SquadDataConfig
from conversion.tokenizer_files import Rules, read_vocabulary
from data.ofrecord import open_records
from data.preparation.squad import features_plan, prepare
from data.reading.loader import Records
from data.records.features import squad_schema
from data.records.record_set import RecordSet
from data.squad import SquadExample, SquadFeature, convert_examples_to_features, read_squad_examples, read_squad_json
from data.tokenization import load_tokenizer
from evaluation.squad import check_gold, evaluate, is_version_2
from evaluation.squad_decoding import decode_predictions
from modeling import BertForQuestionAnswering
from modeling.distillation import SoftTarget
from training.distributed import World
from training.evaluator import Evaluator, Say
from training.start import Start, check_sizes, find_vocabulary, warn_of_random_weights
from training.step import Mode
from training.task import Task, padded
from training.terms import EXAMPLE_WEIGHTS, TOTAL_LOSS, Figure, LossTerm
from training.trainer import train_and_evaluate
from utils.atomic_files import write_atomically
from utils.errors import UserError
from utils.file_lock import check_still_there
from utils.messages import warn

SCORES_FILE = "eval_results.json"


def finetune_squad(config: SquadConfig) -> None:
    """Trains, evaluates and predicts as the flags say; all files go to the output directory."""
    train_and_evaluate(config, cast(Mode, config.mode), partial(open_task, config))


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Task):
    """Finds the answer's span in a context."""

    model_class = BertForQuestionAnswering
    terms = (LossTerm(Figure(TOTAL_LOSS, EXAMPLE_WEIGHTS), labels=("start_positions", "end_positions")),)
    judged_by = "eval_f1"
    answers_change = True

    config: SquadConfig
    questions: Questions | None  # only on the first rank, which writes the answers

    @property
    def soft_targets(self) -> tuple[SoftTarget, ...]:
        """The scores of both ends of the answer, whose losses are averaged."""
        return tuple(
            SoftTarget(f"{end}_logits", EXAMPLE_WEIGHTS, parameters=("qa_outputs.",), share=0.5)
            for end in ("start", "end")
        )

    def evaluate(self, evaluator: Evaluator, say: Say) -> dict[str, float]:
        """Writes the answers, and scores them if --do_eval is given."""
        (records,) = self.evaluation
        outputs = evaluator.outputs(records, ("start_logits", "end_logits"), say)
        if self.questions is None:
            return {}
        scores = self.questions.answer(np.stack([outputs["start_logits"], outputs["end_logits"]]))
        answers = Path(self.config.run.output_dir) / "predictions.json"
        say(f"answered {len(self.questions.examples)} questions: {answers}")
        return scores

    def answer(self, evaluator: Evaluator) -> dict[str, float]:
        """Writes the answers that --do_predict asks for; an evaluation writes them anyway."""
        if self.config.do_predict and not self.evaluates:
            return self.evaluate(evaluator, print)
        return {}


def open_task(config: SquadConfig, start: Start, world: World) -> QuestionAnswering:
    """Creates the task from the flags; the first rank prepares missing features.

    Raises:
        UserError: flags, questions, features, vocabulary and model do not fit together.
    """
    flags = config.run
    vocabulary = find_vocabulary(start, config.features.vocab_file, config.features.do_lower_case)
    features = dataclasses.replace(config.features, vocab_file=str(vocabulary.path))
    bert = config.model.bert_config(start.config, vocab_size=vocabulary.size)
    warn_of_random_weights(start, bert)
    check_sizes(start, bert, vocabulary.size, features.max_seq_length)
    start.check_head("qa_outputs", flags.do_train)  # before features are prepared, which can take an hour
    answers = flags.do_eval or config.do_predict
    questions = Questions.read(config, features) if answers and world.shape.is_first else None
    training = _training_records(config, world, features, bert) if flags.do_train else None
    return QuestionAnswering(
        bert=bert,
        vocabulary=vocabulary,
        seq_length=features.max_seq_length,
        training=training,
        evaluation=(_records_to_answer(config, world, features, bert, questions),) if answers else (),
        evaluates=bool(flags.do_eval),
        config=config,
        questions=questions,
    )


@dataclass(frozen=True)
class Questions:
    """The questions to answer, their windows, and the settings for decoding."""

    config: SquadConfig
    settings: FeatureFlags
    articles: list[dict[str, Any]]
    examples: list[SquadExample]
    features: list[SquadFeature]
    tokenizer: Tokenizer

    @classmethod
    def read(cls, config: SquadConfig, settings: FeatureFlags) -> Questions:
        """Reads --predict_file and makes its windows; raises UserError if --do_eval needs answers that are missing."""
        path = config.data.predict_file or ""
        articles = read_squad_json(path)
        examples = read_squad_examples(
            path, is_training=False, version_2_with_negative=settings.version_2_with_negative
        )
        if config.run.do_eval:
            check_gold(articles, version_2=settings.version_2_with_negative and is_version_2(articles))
        features = convert_examples_to_features(examples, settings, num_workers=1)  # takes seconds
        # Read now, because training may delete the checkpoint with the vocabulary.
        tokenizer = load_tokenizer(settings.vocab_file or "", settings.do_lower_case)
        return cls(config, settings, articles, examples, list(features), tokenizer)

    def answer(self, logits: np.ndarray) -> dict[str, float]:
        """Decodes the logits [2, features, S], writes the answers and, with --do_eval, their scores.

        Returns:
            the scores, {"eval_…": score}.
        """
        version_2 = self.settings.version_2_with_negative
        decoded = decode_predictions(
            self.examples,
            self.features,
            logits[0],
            logits[1],
            self.tokenizer,
            self.config.decoding,
            version_2_with_negative=version_2,
        )
        output = Path(self.config.run.output_dir)
        check_still_there(output)
        decoded.write(output)
        (output / SCORES_FILE).unlink(missing_ok=True)  # scores of earlier answers
        if not self.config.run.do_eval:
            return {}
        # --null_score_diff_threshold has been applied to the predictions already.
        scores = evaluate(
            self.articles,
            decoded.predictions,
            na_probs=decoded.null_odds if version_2 and is_version_2(self.articles) else None,
            na_prob_thresh=math.inf,
        )
        write_atomically(output / SCORES_FILE, json.dumps(scores, indent=2).encode() + b"\n")
        return {f"eval_{name}": float(value) for name, value in scores.items()}


def _training_records(config: SquadConfig, world: World, features: FeatureFlags, bert: BertConfig) -> Records:
    data = config.data
    directory = data.train_data_dir or _cached(config, world, features, data.train_file or "", is_training=True)
    source = _open(directory, data.train_data_part_num, features, is_training=True)
    count = len(source)
    if data.train_example_num is not None:
        if data.train_example_num > count:
            warn(f"--train_example_num {data.train_example_num} is more than the {count} features found.")
        count = min(count, data.train_example_num)
    return padded(Records(source, count=count, below=_bounds(bert, features)), config.batch)


def _records_to_answer(
    config: SquadConfig, world: World, features: FeatureFlags, bert: BertConfig, questions: Questions | None
) -> Records:
    data = config.data
    directory = data.eval_data_dir or _cached(config, world, features, data.predict_file or "", is_training=False)
    source = _open(directory, data.eval_data_part_num, features, is_training=False)
    if data.eval_example_num not in (None, len(source)):
        warn(
            f"--eval_example_num is {data.eval_example_num}, but {directory} has {len(source)} features; all of them "
            "are used."
        )
    if questions:
        _check_same(source, questions, directory)
    return padded(Records(source, below=_bounds(bert, features)), config.batch)


def _check_same(source: RecordSet, questions: Questions, directory: str) -> None:
    """Raises UserError if the features in a directory are not the windows of the questions."""
    path, settings = questions.config.data.predict_file, questions.settings
    if len(questions.features) != len(source):
        raise UserError(
            f"{path} yields {len(questions.features)} features, but {directory} contains {len(source)}: use the same "
            "file, --max_seq_length, --doc_stride and --max_query_length as in the preparation."
        )
    for first in range(0, len(source), 1024):
        numbers = np.arange(first, min(first + 1024, len(source)))
        held = source.read(numbers)["input_ids"]
        made = np.stack([questions.features[i].record(settings.max_seq_length)["input_ids"] for i in numbers])
        different = (held != made).any(axis=1)
        if different.any():
            raise UserError(
                f"{directory}: feature {first + int(different.argmax())} differs from those of {path} and "
                f"{settings.vocab_file}: use the file, vocabulary and casing of the preparation."
            )


def _cached(config: SquadConfig, world: World, features: FeatureFlags, path: str, *, is_training: bool) -> str:
    """The directory of a file's features, which the first rank prepares if they are missing."""
    flags = SquadDataConfig(input_file=path, output_dir="unknown", is_training=is_training, features=features)
    digest = hashlib.sha256(json.dumps(features_plan(flags), sort_keys=True).encode()).hexdigest()[:12]
    directory = Path(config.run.output_dir) / "features" / f"{'train' if is_training else 'eval'}-{digest}"
    if world.shape.is_first:
        prepare(dataclasses.replace(flags, output_dir=str(directory)))
    world.barrier()
    return str(directory)


def _open(directory: str, parts: int | None, features: FeatureFlags, *, is_training: bool) -> RecordSet:
    source = open_records(directory, parts=parts)
    wanted = squad_schema(features.max_seq_length, is_training)
    for name, kind in wanted.items():
        if source.schema.get(name) != kind:
            found = source.schema.get(name)
            has = f"{name} of {found[1]} values" if found else f"no {name}"
            raise UserError(
                f"{directory} has {has}, not {kind[1]}: pass --max_seq_length {source.schema['input_ids'][1]}, or "
                "use another directory."
                if found
                else f"{directory} has {has}: these are not {'training' if is_training else 'evaluation'} features."
            )
    vocabulary = read_vocabulary(features.vocab_file or "", features.do_lower_case)
    if source.metadata.get("vocab_sha256", vocabulary.sha256) != vocabulary.sha256:
        raise UserError(f"{directory} was made with a different --vocab_file: prepare it again.")
    for name, value in vocabulary.rules._asdict().items() if "do_lower_case" in source.metadata else ():
        if source.metadata.get(name, Rules._field_defaults[name]) != value:
            raise UserError(f"{directory} was made with a different {name}, not {value}: prepare it again.")
    return source


def _bounds(bert: BertConfig, features: FeatureFlags) -> dict[str, int]:
    positions = dict.fromkeys(("start_positions", "end_positions"), features.max_seq_length)
    return {"input_ids": bert.vocab_size, "segment_ids": bert.segment_bound, **positions}
