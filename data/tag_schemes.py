"""Entity tag schemes: IOB1, IOB2 and BIOES (also with the letters of BILOU and BMES), converted to IOB2.

- IOB2: `B-` begins every entity, `I-` continues it.
- IOB1: `I-` begins and continues; `B-` only begins an entity right after another one of the same type.
- BIOES: `S-` is an entity of one word, `B-` begins, `I-` continues and `E-` ends a longer one.
- none: tags without prefixes, such as parts of speech.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Literal

Scheme = Literal["iob1", "iob2", "bioes", "none"]
OUTSIDE = "O"
_LETTERS = {"L": "E", "U": "S", "M": "I"}  # of BILOU and BMES
_PREFIXES = "BIES" + "".join(_LETTERS)


class SchemeError(Exception):
    """A tag that does not follow the scheme, with its position."""

    def __init__(self, message: str, word: int, sentence: int = 0) -> None:
        super().__init__(message)
        self.word, self.sentence = word, sentence


def detect_scheme(tags: Iterable[Sequence[str]]) -> Scheme:
    """Returns the first of none, BIOES, IOB2 and IOB1 that all sentences follow.

    Raises:
        SchemeError: they follow none of them.
    """
    sentences = list(tags)
    letters = {_letter(tag) for sentence in sentences for tag in sentence if tag != OUTSIDE}
    if letters <= {""}:
        return "none"
    if "" in letters:
        sentence, word = next(
            (s, w)
            for s, own in enumerate(sentences)
            for w, tag in enumerate(own)
            if tag != OUTSIDE and not _letter(tag)
        )
        raise SchemeError(
            f"the tag {sentences[sentence][word]!r} has no prefix such as B- or I-, unlike other tags: correct it, "
            "or set the column with --tag_column.",
            word,
            sentence,
        )
    problem: SchemeError | None = None
    schemes: tuple[Scheme, ...] = ("bioes",) if letters - {"B", "I"} else ("iob2", "iob1")
    for scheme in schemes:
        found = _first_problem(sentences, scheme)
        if found is None:
            return scheme
        problem = problem or found
    assert problem is not None
    raise SchemeError(
        f"{problem} The tags follow neither IOB1, IOB2 nor BIOES: correct them.", problem.word, problem.sentence
    )


def _first_problem(sentences: Sequence[Sequence[str]], scheme: Scheme) -> SchemeError | None:
    for number, tags in enumerate(sentences):
        try:
            to_iob2(tags, scheme)
        except SchemeError as error:
            error.sentence = number
            return error
    return None


def to_iob2(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """A sentence's tags in IOB2; tags without prefixes stay as they are.

    Raises:
        SchemeError: a tag does not follow the scheme.
    """
    if scheme == "none":
        return list(tags)
    found = []
    for word, (before, tag) in enumerate(pairwise([OUTSIDE, *tags])):
        if tag != OUTSIDE and not _letter(tag):
            raise SchemeError(f"the tag {tag!r} has no prefix such as B- or I-.", word)
        begins = _begins(before, tag, scheme)
        if begins is None:
            raise SchemeError(f"the tag {tag!r} cannot follow {before!r}.", word)
        found.append(tag if tag == OUTSIDE else f"{'B' if begins else 'I'}-{tag[2:]}")
    if scheme == "bioes" and tags and _letter(tags[-1]) in ("B", "I"):
        raise SchemeError(f"the tag {tags[-1]!r} cannot be the last one: its entity has no end.", len(tags) - 1)
    return found


def _begins(before: str, tag: str, scheme: Scheme) -> bool | None:
    """Whether a tag begins an entity, given the previous tag; None if it cannot follow it."""
    last, letter = _letter(before), _letter(tag)
    continues = last != "" and before[2:] == tag[2:]  # the entity could continue
    if scheme == "iob2":
        return True if letter == "B" or tag == OUTSIDE else False if continues else None
    if scheme == "iob1":
        if letter == "B":
            return True if continues else None
        return not continues
    inside = last in ("B", "I")  # the previous entity has not ended
    if tag == OUTSIDE or letter in ("B", "S"):
        return None if inside else True
    return False if inside and continues else None


def _letter(tag: str) -> str:
    """The prefix in BIOES's letters, "" if there is none."""
    if len(tag) > 2 and tag[1] == "-" and tag[0] in _PREFIXES:
        return _LETTERS.get(tag[0], tag[0])
    return ""
