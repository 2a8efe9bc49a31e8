"""Trains and evaluates sentence embeddings and cross-encoders on text pairs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from configs.embedding import SCORED_LOSSES, EmbeddingConfig
from configs.model import BertConfig
from configs.pooling import Pooling
from conversion.tokenizer_files import Vocabulary
from data.classification import TextExamples, TextRecords
from data.embedding import GroupRecords, TextGroups, read_groups, read_identified, read_relevance
from data.reading.loader import Records
from evaluation.retrieval import RANKED, blocks, most_similar, retrieval_metrics, similarity_metrics, unit
from launch import ranks
from modeling.distillation import SoftTarget
from modeling.embedding import BertForEmbedding
from modeling.embedding_losses import CoSent, CosineSimilarity, EmbeddingLoss, Matryoshka, MultipleNegatives
from modeling.heads import BertForSequenceClassification
from modeling.pretrained import PretrainedModel
from tasks.classification import classifier_target
from training.distributed import World
from training.evaluator import Evaluator, Say
from training.start import Start, check_sizes, find_vocabulary
from training.step import Mode
from training.task import Task, padded
from training.terms import EXAMPLE_WEIGHTS, TOTAL_LOSS, Figure, LossTerm
from training.trainer import train_and_evaluate
from utils.errors import UserError
from utils.file_lock import check_still_there
from utils.json_file import write_json

RESULTS_FILE = "eval_results.json"


@dataclass(frozen=True)
class Retrieval:
    """A corpus, queries, and the relevant texts of each query.

    Attributes:
        corpus: {id: text}.
        queries: {id: text}; each has a relevant text.
        relevance: {query id: {corpus id: relevance above 0}}.
    """

    corpus: dict[str, str]
    queries: dict[str, str]
    relevance: dict[str, dict[str, float]]

    @classmethod
    def read(cls, corpus_file: str, queries_file: str, qrels_file: str, delimiter: str | None) -> Retrieval:
        """Reads the three files of a retrieval set.

        Raises:
            UserError: a file cannot be read, or ids in `qrels_file` are not in the other two.
        """
        corpus = read_identified(corpus_file, delimiter, "--corpus_file")
        queries = read_identified(queries_file, delimiter, "--queries_file")
        relevance = read_relevance(qrels_file, delimiter)
        for query, documents in relevance.items():
            unknown = next((name for name in documents if name not in corpus), None)
            if query not in queries or unknown is not None:
                where, name = (queries_file, query) if query not in queries else (corpus_file, unknown)
                raise UserError(f"{qrels_file} has the id {name!r}, which is not in {where}: check the ids.")
        judged = {name: text for name, text in queries.items() if name in relevance}
        if not judged:
            raise UserError(f"{qrels_file} has no relevant text for any query: there is nothing to evaluate.")
        return cls(corpus, judged, relevance)

    @classmethod
    def of_pairs(cls, groups: TextGroups) -> Retrieval:
        """Makes each anchor a query whose positive must be found among all positives and hard negatives."""
        relevance: dict[str, dict[str, float]] = {}
        for anchor, positive in zip(*groups.texts[:2], strict=True):
            relevance.setdefault(anchor, {})[positive] = 1.0
        texts = dict.fromkeys(text for column in groups.texts[1:] for text in column)
        return cls({text: text for text in texts}, {query: query for query in relevance}, relevance)


@dataclass(frozen=True)
class EmbeddingFiles:
    """The rows of the files in the flags."""

    training: TextGroups | None
    scored: TextGroups | None  # pairs whose scores are correlated with the model's
    retrieval: Retrieval | None

    @classmethod
    def read(cls, config: EmbeddingConfig) -> EmbeddingFiles:
        """Reads and checks all files; raises UserError if a file, a row or a flag does not fit."""
        flags = config.data
        read = partial(
            read_groups,
            text_columns=flags.text_columns,
            score_column=flags.score_column,
            delimiter=flags.delimiter,
            max_score=flags.max_score,
        )
        training = scored = retrieval = None
        if config.run.do_train and flags.train_file:
            training = read(flags.train_file, most_rows=flags.max_train_samples)
        if config.run.do_eval and flags.validation_file:
            groups = read(flags.validation_file, most_rows=flags.max_val_samples)
            if len(groups.texts) < 2:
                raise UserError(f"{flags.validation_file} has single texts, but evaluation needs pairs.")
            scored, retrieval = (groups, None) if groups.scores is not None else (None, Retrieval.of_pairs(groups))
        if config.run.do_eval and flags.corpus_file and flags.queries_file and flags.qrels_file:
            if retrieval:
                raise UserError("--corpus_file and pairs without scores in --validation_file cannot be combined.")
            retrieval = Retrieval.read(flags.corpus_file, flags.queries_file, flags.qrels_file, flags.delimiter)
        if ranks.rank() == 0:
            for each in filter(None, (training, scored)):
                print(f"{each.table.path}: {len(each)} rows of {each.columns}", flush=True)
        return cls(training, scored, retrieval)


def train_embedding(config: EmbeddingConfig) -> dict[str, float]:
    """Trains and evaluates as the flags say; returns the metrics, which are also in eval_results.json."""
    files = EmbeddingFiles.read(config)
    name = loss_name(config, files.training)
    open_task = _open_reranking if name == "cross_encoder" else _open_embedding
    return train_and_evaluate(config, cast(Mode, config.mode), partial(open_task, config, files, name))


def loss_name(config: EmbeddingConfig, training: TextGroups | None) -> str:
    """The name of the loss: --loss, or the one that fits the rows; raises UserError if the rows do not fit it."""
    name = config.embedding.loss
    if training is None:
        return name or "multiple_negatives"
    texts, path = len(training.texts), training.table.path
    name = name or ("cosent" if training.scores is not None else "simcse" if texts == 1 else "multiple_negatives")
    if name in SCORED_LOSSES and training.scores is None:
        raise UserError(f"--loss {name} needs scored pairs, but {path} has {training.columns}: set --score_column.")
    if name == "simcse" and texts != 1:
        raise UserError(
            f"--loss simcse needs sentences, but {path} has {training.columns}: set --text_columns to one column."
        )
    if name == "multiple_negatives" and texts < 2:
        raise UserError(f"--loss multiple_negatives needs pairs, but {path} has sentences: use --loss simcse.")
    if name == "cross_encoder" and (texts < 2 or (training.scores is None and texts < 3)):
        raise UserError(
            f"--loss cross_encoder needs scored pairs or hard negatives, but {path} has neither: use other data."
        )
    if name in ("cosine", "cross_encoder"):
        training.check_scores(-1 if name == "cosine" else 0)
    return name


def embedding_loss(name: str, config: EmbeddingConfig, hidden_size: int) -> EmbeddingLoss:
    """The loss object; raises UserError if a matryoshka dimension is above the model's."""
    flags = config.embedding
    scale = 1 / flags.temperature
    made: dict[str, EmbeddingLoss] = {
        "multiple_negatives": MultipleNegatives(scale, flags.symmetric),
        "simcse": MultipleNegatives(scale),
        "cosent": CoSent(scale),
        "cosine": CosineSimilarity(),
    }
    if not flags.matryoshka_dimensions:
        return made[name]
    if max(flags.matryoshka_dimensions) > hidden_size:
        raise UserError(
            f"--matryoshka_dimensions {max(flags.matryoshka_dimensions)} is above the model's {hidden_size} dimensions."
        )
    return Matryoshka(made[name], flags.matryoshka_dimensions)


@dataclass(frozen=True, kw_only=True)
class Similarity(Task):
    """Base class for embeddings and cross-encoders: one loss, and evaluation on the same files."""

    terms = (LossTerm(Figure(TOTAL_LOSS, EXAMPLE_WEIGHTS), labels=("scores",)),)
    judged_by = "eval_score"

    config: EmbeddingConfig
    files: EmbeddingFiles

    def evaluate(self, evaluator: Evaluator, say: Say) -> dict[str, float]:
        """The correlations of scored pairs, the metrics of a retrieval set, and the main metric."""
        metrics = self.metrics(evaluator, say)
        metrics["score"] = metrics["spearman"] if "spearman" in metrics else metrics[f"ndcg@{RANKED}"]
        if evaluator.world.shape.is_first:
            output = Path(self.config.run.output_dir)
            check_still_there(output)
            output.mkdir(parents=True, exist_ok=True)
            write_json(output / RESULTS_FILE, metrics)
            say(", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        return {f"eval_{name}": value for name, value in metrics.items()}

    @abstractmethod
    def metrics(self, evaluator: Evaluator, say: Say) -> dict[str, float]:
        """The metrics on the evaluation files."""


@dataclass(frozen=True, kw_only=True)
class SentenceEmbedding(Similarity):
    """Computes one vector per text, so that texts with similar meanings have similar vectors."""

    model_class = BertForEmbedding

    pooling: Pooling
    loss: EmbeddingLoss
    to_records: Callable[[list[str]], Records]

    def build(self, bert: BertConfig, seed: int) -> PretrainedModel:
        return cast(type[BertForEmbedding], self.built_class)(bert, seed, self.pooling, self.loss)

    @property
    def soft_targets(self) -> tuple[SoftTarget, ...]:
        return (SoftTarget("embeddings", EXAMPLE_WEIGHTS, "vectors"),)

    def metrics(self, evaluator: Evaluator, say: Say) -> dict[str, float]:
        metrics: dict[str, float] = {}
        scored, retrieval = self.files.scored, self.files.retrieval
        if scored and scored.scores is not None:
            first, second = (unit(self._embed(texts, evaluator, say)) for texts in scored.texts)
            metrics |= similarity_metrics((first * second).sum(axis=1), scored.scores)
        if retrieval:
            corpus = self._embed(list(retrieval.corpus.values()), evaluator, say)
            queries = self._embed(list(retrieval.queries.values()), evaluator, say)
            found, _ = most_similar(queries, blocks(corpus), RANKED)
            ids = list(retrieval.corpus)
            rankings = [[ids[number] for number in row] for row in found.tolist()]
            metrics |= retrieval_metrics(rankings, [retrieval.relevance[name] for name in retrieval.queries])
        return metrics

    def _embed(self, texts: list[str], evaluator: Evaluator, say: Say) -> np.ndarray:
        """[n, H]: the vectors of texts; equal texts are embedded once."""
        distinct = list(dict.fromkeys(texts))
        vectors = evaluator.outputs(self.to_records(distinct), ("embeddings",), say)["embeddings"]
        number = {text: row for row, text in enumerate(distinct)}
        return vectors[[number[text] for text in texts]]


@dataclass(frozen=True, kw_only=True)
class Reranking(Similarity):
    """Computes a score for each pair of texts, which the model reads together."""

    model_class = BertForSequenceClassification
    terms = (LossTerm(Figure(TOTAL_LOSS, EXAMPLE_WEIGHTS), labels=("label_ids",)),)

    @property
    def soft_targets(self) -> tuple[SoftTarget, ...]:
        return (classifier_target(self.bert, EXAMPLE_WEIGHTS),)

    def metrics(self, evaluator: Evaluator, say: Say) -> dict[str, float]:
        (records,) = self.evaluation
        logits = evaluator.outputs(records, ("logits",), say)["logits"][:, 0]
        if self.files.scored and self.files.scored.scores is not None:
            return similarity_metrics(logits, self.files.scored.scores)
        assert self.files.retrieval is not None
        rankings, relevance, first = [], [], 0
        candidates = list(self.files.retrieval.corpus)
        for query in self.files.retrieval.queries:
            own = logits[first : first + len(candidates)]
            first += len(candidates)
            best = np.argsort(-own, kind="stable")[:RANKED]
            rankings.append([candidates[number] for number in best.tolist()])
            relevance.append(self.files.retrieval.relevance[query])
        return retrieval_metrics(rankings, relevance)


def _vocabulary_and_shape(config: EmbeddingConfig, start: Start) -> tuple[Vocabulary, BertConfig]:
    vocabulary = find_vocabulary(start, config.data.vocab_file, config.data.do_lower_case)
    bert = config.model.bert_config(start.config, vocab_size=vocabulary.size)
    check_sizes(start, bert, vocabulary.size, config.data.max_seq_length)
    return vocabulary, bert


def _open_embedding(
    config: EmbeddingConfig, files: EmbeddingFiles, name: str, start: Start, world: World
) -> SentenceEmbedding:
    """Creates the task of a bi-encoder; raises UserError if flags, vocabulary and model do not fit together."""
    vocabulary, bert = _vocabulary_and_shape(config, start)
    flags, length = config.embedding, config.data.max_seq_length
    pooling = (Pooling.read(start.weights.directory) if start.weights else None) or Pooling()
    pooling = Pooling(
        flags.pooling or pooling.kind, pooling.normalize if flags.normalize is None else flags.normalize, length
    )

    def records(groups: TextGroups) -> Records:
        return padded(Records(GroupRecords(groups, vocabulary, max_seq_length=length)), config.batch)

    training = files.training
    if training and name == "simcse":
        training = replace(training, texts=training.texts * 2)
    if training and name not in SCORED_LOSSES:
        training = replace(training, scores=None)
    return SentenceEmbedding(
        bert=bert,
        vocabulary=vocabulary,
        seq_length=length,
        training=records(training) if training else None,
        evaluation=(),
        evaluates=files.scored is not None or files.retrieval is not None,
        config=config,
        files=files,
        pooling=pooling,
        loss=embedding_loss(name, config, bert.hidden_size),
        to_records=lambda texts: records(TextGroups.of_texts(Path("texts"), texts)),
    )


def _open_reranking(config: EmbeddingConfig, files: EmbeddingFiles, name: str, start: Start, world: World) -> Reranking:
    """Creates the task of a cross-encoder; raises UserError if flags, vocabulary and model do not fit together."""
    vocabulary, bert = _vocabulary_and_shape(config, start)
    bert = replace(bert, num_labels=1, label_names=("score",), problem_type="multi_label_classification")
    if start.config and start.config.num_labels != 1:
        start.drop_weights("classifier.")

    def records(path: Path, pairs: list[tuple[str, str]], scores: np.ndarray | None) -> Records:
        first, second = ([pair[side] for pair in pairs] for side in (0, 1))
        labels = None if scores is None else scores[:, None]
        examples = TextExamples(path, tuple(range(1, len(pairs) + 1)), (first, second), labels)
        source = TextRecords(examples, vocabulary, max_seq_length=config.data.max_seq_length)
        return padded(Records(source, below={"segment_ids": bert.segment_bound}), config.batch)

    training = evaluation = None
    if files.training:
        training = records(files.training.table.path, *_labelled_pairs(files.training))
    if files.scored:
        evaluation = records(files.scored.table.path, list(zip(*files.scored.texts, strict=True)), None)
    elif files.retrieval:
        pairs = [
            (query, text) for query in files.retrieval.queries.values() for text in files.retrieval.corpus.values()
        ]
        evaluation = records(Path("queries"), pairs, None)
    return Reranking(
        bert=bert,
        vocabulary=vocabulary,
        seq_length=config.data.max_seq_length,
        training=training,
        evaluation=(evaluation,) if evaluation else (),
        evaluates=evaluation is not None,
        config=config,
        files=files,
    )


def _labelled_pairs(groups: TextGroups) -> tuple[list[tuple[str, str]], np.ndarray]:
    """The pairs and their scores: those of the file, or else 1 for a positive and 0 for a hard negative."""
    if groups.scores is not None:
        return list(zip(*groups.texts[:2], strict=True)), groups.scores
    anchors, *others = groups.texts
    pairs = [pair for column in others for pair in zip(anchors, column, strict=True)]
    labels = np.zeros(len(pairs), np.float32)
    labels[: len(anchors)] = 1
    return pairs, labels
