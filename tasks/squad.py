"""Fine-tuning for question answering: features in, answers and their scores out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from tokenizers import Tokenizer

from configs.cli import warn
from configs.model import BertConfig
from configs.squad import FeatureFlags, SquadConfig, SquadDataConfig
from conversion.tokenizer_files import Rules, read_vocabulary
from data.datasets.squad import (
    SquadExample,
    SquadFeature,
    convert_examples_to_features,
    features_plan,
    prepare,
    read_squad_examples,
    read_squad_json,
)
from data.reading.loader import Records
from data.records.ofrecord import open_records, squad_schema, write_atomically
from data.records.record_set import RecordSet
from data.text.tokenization import load_tokenizer
from evaluation.squad import check_gold, evaluate, is_version_2
from evaluation.squad_decoding import decode_predictions
from modeling import BertForQuestionAnswering
from training.run import Run, Task
from training.step import Mode, build_eval_step
from utils.errors import UserError

SCORES_FILE = "eval_results.json"


def finetune_squad(config: SquadConfig) -> None:
    """Trains, evaluates and answers as the flags say; everything lands in the output directory."""
    flags = config.run
    run = Run(config, cast(Mode, config.mode))
    vocabulary = run.vocabulary(config.features.vocab_file, config.features.do_lower_case)
    features = dataclasses.replace(config.features, vocab_file=str(vocabulary.path))
    bert = config.model.bert_config(run.start_config, vocab_size=vocabulary.size)
    run.check_sizes(bert, vocabulary.size, features.max_seq_length)
    judged = flags.do_eval or config.do_predict
    questions = Questions.read(config, features) if judged and run.world.rank == 0 else None
    training = _training_records(config, run, features, bert) if flags.do_train else None
    records = _records_to_answer(config, run, features, bert, questions) if judged else None
    run.check_alike(training, records)
    model = run.build_model(BertForQuestionAnswering, bert)
    eval_step = build_eval_step(run.mode, model, run.world, outputs=("start_logits", "end_logits"))

    def judge(say: Callable[[str], None]) -> dict[str, float]:
        assert records
        outputs = run.outputs(eval_step, records, ("start_logits", "end_logits"), say)
        if questions is None:  # the first rank answers
            return {}
        scores = questions.answer(np.stack([outputs["start_logits"], outputs["end_logits"]]))
        say(f"answered {len(questions.examples)} questions: {Path(flags.output_dir) / 'predictions.json'}")
        return scores

    if training:
        task = Task(
            records=training,
            seq_length=features.max_seq_length,
            predictions=0,
            vocabulary=vocabulary,
            evaluate=judge if judged else None,
            figure="eval_f1",
            answers=True,
        )
        run.train(model, task)
    if flags.do_eval and not training:
        run.evaluate(judge)
    elif config.do_predict and not flags.do_eval:
        judge(print)


@dataclass(frozen=True)
class Questions:
    """The questions to answer, all their windows, and where answers and scores go."""

    config: SquadConfig
    settings: FeatureFlags
    articles: list[dict[str, Any]]
    examples: list[SquadExample]
    features: list[SquadFeature]
    tokenizer: Tokenizer

    @classmethod
    def read(cls, config: SquadConfig, settings: FeatureFlags) -> Questions:
        """Reads --predict_file and makes its windows; raises UserError if it cannot be scored, but should be."""
        path = config.data.predict_file or ""
        articles = read_squad_json(path)
        if config.run.do_eval:
            check_gold(articles, version_2=settings.version_2_with_negative and is_version_2(articles))
        examples = read_squad_examples(
            path, is_training=False, version_2_with_negative=settings.version_2_with_negative
        )
        features = convert_examples_to_features(examples, settings, num_workers=1)  # seconds; no processes for that
        # Now, since the vocabulary may lie in a checkpoint that training removes.
        tokenizer = load_tokenizer(settings.vocab_file or "", settings.do_lower_case)
        return cls(config, settings, articles, examples, list(features), tokenizer)

    def answer(self, logits: np.ndarray) -> dict[str, float]:
        """Writes the answers that logits [2, features, S] mean, and their scores if asked; returns the scores."""
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
        decoded.write(output)
        (output / SCORES_FILE).unlink(missing_ok=True)  # of other answers
        if not self.config.run.do_eval:
            return {}
        # The predictions stand as they are: --null_score_diff_threshold has been applied to them.
        scores = evaluate(
            self.articles,
            decoded.predictions,
            na_probs=decoded.null_odds if version_2 and is_version_2(self.articles) else None,
            na_prob_thresh=math.inf,
        )
        write_atomically(output / SCORES_FILE, json.dumps(scores, indent=2).encode() + b"\n")
        return {f"eval_{name}": float(value) for name, value in scores.items()}


def _training_records(config: SquadConfig, run: Run, features: FeatureFlags, bert: BertConfig) -> Records:
    data = config.data
    directory = data.train_data_dir or _cached(config, run, features, data.train_file or "", is_training=True)
    source = _open(directory, data.train_data_part_num, features, is_training=True)
    count = len(source)
    if data.train_example_num is not None:
        if data.train_example_num > count:
            warn(f"--train_example_num {data.train_example_num} is more than the {count} features found.")
        count = min(count, data.train_example_num)
    return run.padded(Records(source, count=count, below=_bounds(bert, features)))


def _records_to_answer(
    config: SquadConfig, run: Run, features: FeatureFlags, bert: BertConfig, questions: Questions | None
) -> Records:
    data = config.data
    directory = data.eval_data_dir or _cached(config, run, features, data.predict_file or "", is_training=False)
    source = _open(directory, data.eval_data_part_num, features, is_training=False)
    if data.eval_example_num not in (None, len(source)):
        warn(f"--eval_example_num is {data.eval_example_num}, but {directory} holds {len(source)} features; all count.")
    if questions:
        _check_same(source, questions, directory)
    return run.padded(Records(source, below=_bounds(bert, features)))


def _check_same(source: RecordSet, questions: Questions, directory: str) -> None:
    """Raises UserError where shards are not the windows of the questions."""
    path, settings = questions.config.data.predict_file, questions.settings
    if len(questions.features) != len(source):
        raise UserError(
            f"{path} makes {len(questions.features)} features, but {directory} holds {len(source)}: they must be of "
            "the same file, --max_seq_length, --doc_stride and --max_query_length."
        )
    for first in range(0, len(source), 1024):
        numbers = np.arange(first, min(first + 1024, len(source)))
        held = source.read(numbers)["input_ids"]
        made = np.stack([questions.features[i].record(settings.max_seq_length)["input_ids"] for i in numbers])
        different = (held != made).any(axis=1)
        if different.any():
            raise UserError(
                f"{directory}: feature {first + int(different.argmax())} is not what {path} and {settings.vocab_file} "
                "make: it is of another file, vocabulary or casing."
            )


def _cached(config: SquadConfig, run: Run, features: FeatureFlags, path: str, *, is_training: bool) -> str:
    """The directory of a file's features, which the first process makes if they are not there yet."""
    flags = SquadDataConfig(input_file=path, output_dir="unknown", is_training=is_training, features=features)
    digest = hashlib.sha256(json.dumps(features_plan(flags), sort_keys=True).encode()).hexdigest()[:12]
    directory = Path(config.run.output_dir) / "features" / f"{'train' if is_training else 'eval'}-{digest}"
    if run.world.rank == 0:
        prepare(dataclasses.replace(flags, output_dir=str(directory)))
    run.world.wait()
    return str(directory)


def _open(directory: str, parts: int | None, features: FeatureFlags, *, is_training: bool) -> RecordSet:
    source = open_records(directory, parts=parts)
    wanted = squad_schema(features.max_seq_length, is_training)
    for name, kind in wanted.items():
        if source.schema.get(name) != kind:
            found = source.schema.get(name)
            has = f"{name} of {found[1]} values" if found else f"no {name}"
            raise UserError(
                f"{directory} has {has}, not {kind[1]}: give --max_seq_length {source.schema['input_ids'][1]}, or "
                "another directory."
                if found
                else f"{directory} has {has}: it does not hold {'training' if is_training else 'evaluation'} features."
            )
    vocabulary = read_vocabulary(features.vocab_file or "", features.do_lower_case)
    if source.metadata.get("vocab_sha256", vocabulary.sha256) != vocabulary.sha256:
        raise UserError(f"{directory} was made with another --vocab_file: prepare it again.")
    for name, value in vocabulary.rules._asdict().items() if "do_lower_case" in source.metadata else ():
        if source.metadata.get(name, Rules._field_defaults[name]) != value:
            raise UserError(f"{directory} was made with another {name} than {value}: prepare it again.")
    return source


def _bounds(bert: BertConfig, features: FeatureFlags) -> dict[str, int]:
    positions = dict.fromkeys(("start_positions", "end_positions"), features.max_seq_length)
    return {"input_ids": bert.vocab_size, "segment_ids": bert.type_vocab_size, **positions}
