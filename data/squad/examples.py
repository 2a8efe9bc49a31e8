"""Reads the questions of a SQuAD 1.1 or 2.0 file like Google's run_squad.py."""

from __future__ import annotations

import bisect
import dataclasses
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.json_file import read_json
from utils.messages import warn

_WORD = re.compile("[^ \t\r\n\u202f]+")  # Google's whitespace in contexts: only these five characters

# Scripts without spaces between words: Thai and Lao, Burmese, Khmer, and East Asian scripts.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\ud7ff\uf900-\ufaff\U00020000-\U0003ffff]")


@dataclass(frozen=True)
class SquadExample:
    """One question about one context, with Google's names. Positions count words; -1 means that there is no answer."""

    qas_id: str
    question_text: str
    doc_tokens: list[str]  # the context's words, the same list for all questions of a paragraph
    orig_answer_text: str = ""
    start_position: int = -1
    end_position: int = -1
    is_impossible: bool = False
    before_answer: str = ""  # in scripts without spaces: the part of the first word before the answer


def read_squad_json(path: str | Path, *, answers_only: bool = False) -> list[dict[str, Any]]:
    """Reads the articles of a SQuAD file and checks every field.

    Args:
        path: the file.
        answers_only: whether fields that scoring does not need may be missing (contexts, questions, `answer_start`).

    Raises:
        UserError: the file cannot be read, or is not JSON or not SQuAD; the message says where.
    """
    articles = _field(read_json(path), "data", list, str(path))
    for i, article in enumerate(articles):
        where = f"{path}: data[{i}]"
        for j, paragraph in enumerate(_field(article, "paragraphs", list, where)):
            _check_paragraph(paragraph, f"{where}.paragraphs[{j}]", answers_only)
    return articles


def _check_paragraph(paragraph: Any, where: str, answers_only: bool) -> None:
    _field(paragraph, "context", str, where, optional=answers_only)
    for i, question in enumerate(_field(paragraph, "qas", list, where)):
        where_question = f"{where}.qas[{i}]"
        if isinstance(question, dict) and type(question.get("id")) is int:
            question["id"] = str(question["id"])  # as in COVID-QA and SberQuAD
        _field(question, "id", str, where_question)
        _field(question, "question", str, where_question, optional=answers_only)
        _field(question, "is_impossible", bool, where_question, optional=True)
        for j, answer in enumerate(_field(question, "answers", list, where_question, optional=True)):
            _field(answer, "text", str, f"{where_question}.answers[{j}]")
            _field(answer, "answer_start", int, f"{where_question}.answers[{j}]", optional=answers_only)


def _field(value: Any, name: str, kind: type, where: str, *, optional: bool = False) -> Any:
    """A field of an object; raises UserError if it is not of this kind."""
    what = {list: "a list", str: "a string", int: "an integer", bool: "true or false"}[kind]
    if not isinstance(value, dict):
        raise UserError(f"{where} is not an object with {name!r}: this is not a SQuAD file.")
    if optional and name not in value:
        return kind()
    if type(value.get(name)) is not kind:
        raise UserError(f"{where} has no {name!r} that is {what}: this is not a SQuAD file.")
    if kind is str and not value[name].isascii():
        try:
            value[name].encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{where}: {name!r} is not valid text: it has a lone surrogate at character {error.start}."
            ) from None
    return value[name]


def questions(articles: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every question of the articles, in the order of the file."""
    return (question for article in articles for paragraph in article["paragraphs"] for question in paragraph["qas"])


def read_squad_examples(path: str | Path, *, is_training: bool, version_2_with_negative: bool) -> list[SquadExample]:
    """Reads the questions of a SQuAD file like Google's read_squad_examples.

    For training, questions without text are dropped, and, as in Google's code, questions whose answer is not at its
    offset in the context. Google's code allows one answer per question; if there are several, training uses the first
    one that is not part of a longer word, or else the first. For evaluation, all questions are kept.

    Raises:
        UserError: the file is not SQuAD, is empty, has duplicate ids, or has unanswerable questions although
            `version_2_with_negative` is not set.
    """
    examples: list[SquadExample] = []
    seen: set[str] = set()
    misplaced = empty = 0
    for paragraph in (paragraph for article in read_squad_json(path) for paragraph in article["paragraphs"]):
        context = _Context.of(paragraph["context"])
        for question in paragraph["qas"]:
            if question["id"] in seen:
                raise UserError(f"{path}: two questions have the id {question['id']!r}, but ids must be unique.")
            seen.add(question["id"])
            is_impossible = question.get("is_impossible", False)
            if is_impossible and not version_2_with_negative:
                raise UserError(
                    f"{path}: question {question['id']!r} is marked unanswerable, so this is a SQuAD 2.0 file: "
                    "pass --version_2_with_negative True."
                )
            has_text = bool(question["question"].strip())
            empty += not has_text
            example = SquadExample(question["id"], question["question"], context.words, is_impossible=is_impossible)
            if is_training and not has_text:
                continue
            if is_training and not is_impossible:
                answered = _with_answer(example, question, context, path)
                misplaced += answered is None
                if answered is None:
                    continue
                example = answered
            examples.append(example)
    if not seen:
        raise UserError(f"{path} contains no questions.")
    if misplaced:
        warn(f"{path}: {misplaced} of {len(seen)} questions have an answer that is not at its offset and are dropped.")
    if empty:
        warn(f"{path}: {empty} of {len(seen)} questions have no text and are {'dropped' if is_training else 'kept'}.")
    if not examples:
        raise UserError(
            f"{path}: none of its {len(seen)} questions can be used for training: check answer_start and text."
        )
    return examples


@dataclass(frozen=True)
class _Context:
    text: str
    words: list[str]
    starts: list[int]  # where each word begins in the text

    @classmethod
    def of(cls, text: str) -> _Context:
        found = list(_WORD.finditer(text))
        return cls(text, [word.group() for word in found], [word.start() for word in found])


def _with_answer(
    example: SquadExample, question: dict[str, Any], context: _Context, path: str | Path
) -> SquadExample | None:
    """Adds the words of the answer to an example; None if the first answer is not at its offset."""
    answers = question.get("answers")
    if not answers:
        raise UserError(f"{path}: question {example.qas_id!r} has no answer to train on.")
    found = [_at_offset(example, answer, context) for answer in answers]
    if found[0] is None:
        return None
    whole = (e for e, answer in zip(found, answers, strict=True) if e and _stands_alone(answer, context.text))
    return next(whole, found[0])


def _at_offset(example: SquadExample, answer: dict[str, Any], context: _Context) -> SquadExample | None:
    text, first = answer["text"], answer["answer_start"]
    last = first + len(text) - 1
    if not text.strip() or first < 0 or last >= len(context.text):
        return None
    start, end = (bisect.bisect_right(context.starts, offset) - 1 for offset in (first, last))
    if start < 0 or " ".join(text.split()) not in " ".join(context.words[start : end + 1]):
        return None
    before = context.text[context.starts[start] : first]
    return dataclasses.replace(
        example,
        orig_answer_text=text,
        start_position=start,
        end_position=end,
        before_answer=before if _UNSPACED.search(before) else "",
    )


def _stands_alone(answer: dict[str, Any], context: str) -> bool:
    """Whether the answer is not part of a longer word or number, unlike "8" in "20-18"."""
    start = answer["answer_start"]
    end = start + len(answer["text"])
    around = (context[start - 1] if start else " ") + (context[end] if end < len(context) else " ")
    return not any(character.isalnum() for character in around)
