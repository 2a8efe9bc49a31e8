"""A reimplementation of Google's SQuAD converter in pure Python, which tokenizes the context again for each question.

It follows the rules of google-research/bert's run_squad.py with the same loops, so that it has the same results and the
same speed. Benchmarks and tests compare with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.google_tokenization import FullTokenizer


@dataclass
class Example:
    """One question; positions are indices into `doc_tokens`, which are words."""

    qas_id: str
    question_text: str
    doc_tokens: list[str]
    orig_answer_text: str | None = None
    start_position: int | None = None
    end_position: int | None = None
    is_impossible: bool = False


@dataclass
class Feature:
    """One window of a question's context."""

    unique_id: int
    example_index: int
    doc_span_index: int
    tokens: list[str]
    token_to_orig_map: dict[int, int]
    token_is_max_context: dict[int, bool]
    input_ids: list[int]
    input_mask: list[int]
    segment_ids: list[int]
    start_position: int | None
    end_position: int | None


def read_examples(path: str, is_training: bool, version_2_with_negative: bool) -> list[Example]:
    """The questions of a SQuAD file; in training only those whose first answer is found in the context."""
    with open(path, encoding="utf-8") as file:
        articles = json.load(file)["data"]
    return [
        example
        for article in articles
        for paragraph in article["paragraphs"]
        for example in _examples_of(paragraph, is_training, version_2_with_negative)
    ]


def _examples_of(paragraph: dict[str, Any], is_training: bool, version_2_with_negative: bool) -> Iterator[Example]:
    doc_tokens: list[str] = []
    word_of_char = []
    after_space = True
    for char in paragraph["context"]:
        if char in " \t\r\n" or ord(char) == 0x202F:
            after_space = True
        else:
            if after_space:
                doc_tokens.append(char)
            else:
                doc_tokens[-1] += char
            after_space = False
        word_of_char.append(len(doc_tokens) - 1)
    for qa in paragraph["qas"]:
        example = Example(qa["id"], qa["question"], doc_tokens)
        if is_training:
            example.is_impossible = version_2_with_negative and qa["is_impossible"]
            if example.is_impossible:
                example.start_position, example.end_position, example.orig_answer_text = -1, -1, ""
            else:
                answer = qa["answers"][0]
                text, offset = answer["text"], answer["answer_start"]
                example.orig_answer_text = text
                example.start_position = word_of_char[offset]
                example.end_position = word_of_char[offset + len(text) - 1]
                actual = " ".join(doc_tokens[example.start_position : example.end_position + 1])
                if actual.find(" ".join(text.split())) == -1:
                    continue
        yield example


def convert(
    examples: list[Example],
    tokenizer: FullTokenizer,
    max_seq_length: int = 384,
    doc_stride: int = 128,
    max_query_length: int = 64,
    is_training: bool = False,
) -> Iterator[Feature]:
    """The windows of all questions."""
    unique_id = 1000000000
    for example_index, example in enumerate(examples):
        query_tokens = tokenizer.tokenize(example.question_text)
        if len(query_tokens) > max_query_length:
            query_tokens = query_tokens[0:max_query_length]
        word_of_token = []
        token_of_word = []
        doc_pieces: list[str] = []
        for i, word in enumerate(example.doc_tokens):
            token_of_word.append(len(doc_pieces))
            for piece in tokenizer.tokenize(word):
                word_of_token.append(i)
                doc_pieces.append(piece)

        has_answer = is_training and not example.is_impossible
        tok_start, tok_end = -1, -1
        if has_answer:
            tok_start, tok_end = _answer_tokens(example, token_of_word, doc_pieces, tokenizer)
        spans = _doc_spans(len(doc_pieces), max_seq_length - len(query_tokens) - 3, doc_stride)
        for span_index, (start, length) in enumerate(spans):
            tokens = ["[CLS]"]
            segment_ids = [0]
            for token in query_tokens:
                tokens.append(token)
                segment_ids.append(0)
            tokens.append("[SEP]")
            segment_ids.append(0)
            to_word = {}
            max_context = {}
            for i in range(start, start + length):
                to_word[len(tokens)] = word_of_token[i]
                max_context[len(tokens)] = _is_max_context(spans, span_index, i)
                tokens.append(doc_pieces[i])
                segment_ids.append(1)
            tokens.append("[SEP]")
            segment_ids.append(1)
            input_ids = tokenizer.convert_tokens_to_ids(tokens)
            input_mask = [1] * len(input_ids)
            while len(input_ids) < max_seq_length:
                input_ids.append(0)
                input_mask.append(0)
                segment_ids.append(0)

            start_position = end_position = 0 if is_training else None
            if has_answer and tok_start >= start and tok_end <= start + length - 1:
                start_position = tok_start - start + len(query_tokens) + 2
                end_position = tok_end - start + len(query_tokens) + 2
            yield Feature(
                unique_id,
                example_index,
                span_index,
                tokens,
                to_word,
                max_context,
                input_ids,
                input_mask,
                segment_ids,
                start_position,
                end_position,
            )
            unique_id += 1


def _answer_tokens(
    example: Example, token_of_word: list[int], doc_pieces: list[str], tokenizer: FullTokenizer
) -> tuple[int, int]:
    """The first and last WordPiece of the answer."""
    assert example.start_position is not None and example.end_position is not None
    start = token_of_word[example.start_position]
    if example.end_position < len(example.doc_tokens) - 1:
        end = token_of_word[example.end_position + 1] - 1
    else:
        end = len(doc_pieces) - 1
    return _improved(doc_pieces, start, end, tokenizer, example.orig_answer_text or "")


def _doc_spans(count: int, max_doc_tokens: int, doc_stride: int) -> list[tuple[int, int]]:
    """Start and length of each window over `count` tokens."""
    spans: list[tuple[int, int]] = []
    start = 0
    while start < count:
        length = min(count - start, max_doc_tokens)
        spans.append((start, length))
        if start + length == count:
            break
        start += min(length, doc_stride)
    return spans


def _improved(
    doc_tokens: list[str], input_start: int, input_end: int, tokenizer: FullTokenizer, answer_text: str
) -> tuple[int, int]:
    answer = " ".join(tokenizer.tokenize(answer_text))
    for start in range(input_start, input_end + 1):
        for end in range(input_end, start - 1, -1):
            if " ".join(doc_tokens[start : end + 1]) == answer:
                return start, end
    return input_start, input_end


def _is_max_context(spans: list[tuple[int, int]], span_index: int, position: int) -> bool:
    best_score = None
    best_index = None
    for index, (start, length) in enumerate(spans):
        end = start + length - 1
        if position < start or position > end:
            continue
        score = min(position - start, end - position) + 0.01 * length
        if best_score is None or score > best_score:
            best_score = score
            best_index = index
    return span_index == best_index
