"""A reimplementation of Google's preparation of pretraining data: pure Python, one process, everything in memory.

It follows the rules of google-research/bert's create_pretraining_data.py, with the same loops over tokens and the same
protobuf messages, but without the overhead of its libraries (flags looked up for each token, files read through
TensorFlow). Tests compare distributions with it, and `benchmarks.preparation` compares the time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from benchmarks.google_tokenization import FullTokenizer
from benchmarks.protobuf_records import Feature, FloatList, Int32List, OFRecord


class Prediction(NamedTuple):
    """A masked token."""

    index: int
    label: str


@dataclass
class Instance:
    """A sentence pair with masked tokens."""

    tokens: list[str]
    segment_ids: list[int]
    is_random_next: bool
    masked_lm_positions: list[int]
    masked_lm_labels: list[str]


def read_documents(lines: Sequence[str], tokenizer: FullTokenizer, rng: random.Random) -> list[list[list[str]]]:
    """Documents as lists of tokenized sentences, shuffled."""
    documents: list[list[list[str]]] = [[]]
    for line in lines:
        line = line.strip()
        if not line:
            documents.append([])
        elif tokens := tokenizer.tokenize(line):
            documents[-1].append(tokens)
    documents = [document for document in documents if document]
    rng.shuffle(documents)
    return documents


def create_instances(
    documents: list[list[list[str]]],
    vocab_words: list[str],
    rng: random.Random,
    *,
    max_seq_length: int,
    dupe_factor: int,
    short_seq_prob: float,
    masked_lm_prob: float,
    max_predictions_per_seq: int,
    do_whole_word_mask: bool = False,
) -> list[Instance]:
    """Instances of every document, made `dupe_factor` times with different masks, shuffled."""
    instances = []
    for _ in range(dupe_factor):
        for index in range(len(documents)):
            for tokens, segment_ids, is_random_next in pairs_of_document(
                documents, index, max_seq_length, short_seq_prob, rng
            ):
                masked = mask(tokens, masked_lm_prob, max_predictions_per_seq, vocab_words, rng, do_whole_word_mask)
                instances.append(Instance(masked[0], segment_ids, is_random_next, masked[1], masked[2]))
    rng.shuffle(instances)
    return instances


def pairs_of_document(
    documents: list[list[list[str]]], index: int, max_seq_length: int, short_seq_prob: float, rng: random.Random
) -> list[tuple[list[str], list[int], bool]]:
    """The pairs of one document: tokens, segment ids, and whether B is from another document."""
    document = documents[index]
    longest = max_seq_length - 3
    target = rng.randint(2, longest) if rng.random() < short_seq_prob else longest
    pairs = []
    chunk: list[list[str]] = []
    chunk_length = 0
    i = 0
    while i < len(document):
        chunk.append(document[i])
        chunk_length += len(document[i])
        if i == len(document) - 1 or chunk_length >= target:
            a_end = rng.randint(1, len(chunk) - 1) if len(chunk) >= 2 else 1
            tokens_a: list[str] = []
            for sentence in chunk[:a_end]:
                tokens_a.extend(sentence)
            tokens_b: list[str] = []
            is_random_next = len(chunk) == 1 or rng.random() < 0.5
            if is_random_next:
                for _ in range(10):
                    other = rng.randint(0, len(documents) - 1)
                    if other != index:
                        break
                start = rng.randint(0, len(documents[other]) - 1)
                for sentence in documents[other][start:]:
                    tokens_b.extend(sentence)
                    if len(tokens_b) >= target - len(tokens_a):
                        break
                i -= len(chunk) - a_end
            else:
                for sentence in chunk[a_end:]:
                    tokens_b.extend(sentence)
            truncate(tokens_a, tokens_b, longest, rng)
            tokens, segment_ids = ["[CLS]"], [0]
            for token in tokens_a:
                tokens.append(token)
                segment_ids.append(0)
            tokens.append("[SEP]")
            segment_ids.append(0)
            for token in tokens_b:
                tokens.append(token)
                segment_ids.append(1)
            tokens.append("[SEP]")
            segment_ids.append(1)
            pairs.append((tokens, segment_ids, is_random_next))
            chunk, chunk_length = [], 0
        i += 1
    return pairs


def truncate(tokens_a: list[str], tokens_b: list[str], longest: int, rng: random.Random) -> None:
    """Remove tokens from the longer list, at a random end, until both fit."""
    while len(tokens_a) + len(tokens_b) > longest:
        longer = tokens_a if len(tokens_a) > len(tokens_b) else tokens_b
        if rng.random() < 0.5:
            del longer[0]
        else:
            longer.pop()


def mask(
    tokens: list[str], prob: float, most: int, vocab_words: list[str], rng: random.Random, whole_words: bool
) -> tuple[list[str], list[int], list[str]]:
    """Masked tokens, the masked positions, and the original tokens there."""
    words: list[list[int]] = []
    for i, token in enumerate(tokens):
        if token in ("[CLS]", "[SEP]"):
            continue
        if whole_words and words and token.startswith("##"):
            words[-1].append(i)
        else:
            words.append([i])
    rng.shuffle(words)
    output = list(tokens)
    wanted = min(most, max(1, round(len(tokens) * prob)))
    predictions: list[Prediction] = []
    covered: set[int] = set()
    for word in words:
        if len(predictions) >= wanted:
            break
        if len(predictions) + len(word) > wanted or any(i in covered for i in word):
            continue
        for i in word:
            covered.add(i)
            if rng.random() < 0.8:
                output[i] = "[MASK]"
            elif rng.random() >= 0.5:
                output[i] = vocab_words[rng.randint(0, len(vocab_words) - 1)]
            predictions.append(Prediction(i, tokens[i]))
    predictions = sorted(predictions, key=lambda prediction: prediction.index)
    positions, labels = [], []
    for prediction in predictions:
        positions.append(prediction.index)
        labels.append(prediction.label)
    return output, positions, labels


def serialize(instance: Instance, tokenizer: FullTokenizer, max_seq_length: int, most: int) -> bytes:
    """The instance as a serialized record with padded features."""
    ids = tokenizer.convert_tokens_to_ids(instance.tokens)
    mask_ids = [1] * len(ids)
    segment_ids = list(instance.segment_ids)
    while len(ids) < max_seq_length:
        ids.append(0)
        mask_ids.append(0)
        segment_ids.append(0)
    positions = list(instance.masked_lm_positions)
    label_ids = tokenizer.convert_tokens_to_ids(instance.masked_lm_labels)
    weights = [1.0] * len(label_ids)
    while len(positions) < most:
        positions.append(0)
        label_ids.append(0)
        weights.append(0.0)
    features = {
        "input_ids": _int_feature(ids),
        "input_mask": _int_feature(mask_ids),
        "segment_ids": _int_feature(segment_ids),
        "masked_lm_positions": _int_feature(positions),
        "masked_lm_ids": _int_feature(label_ids),
        "masked_lm_weights": Feature(float_list=FloatList(value=list(weights))),
        "next_sentence_labels": _int_feature([int(instance.is_random_next)]),
    }
    data: bytes = OFRecord(feature=features).SerializeToString()
    return data


def _int_feature(values: list[int]) -> Any:
    return Feature(int32_list=Int32List(value=list(values)))
