"""Metrics for taggers.

Entity metrics equal those of seqeval (Nakayama 2018) in its default mode, to the last digit. They are implemented here
because seqeval has had no release since 2020 and is only published as source.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from evaluation.classification import metrics

Entity = tuple[int, str, int, int]  # sentence, type, first and last word


def entities(sentences: Iterable[Sequence[str]]) -> set[Entity]:
    """The entities in IOB2 tags. As in conlleval, an `I-` tag that continues no entity of its type begins one."""
    found: set[Entity] = set()
    for number, tags in enumerate(sentences):
        start, kind = 0, ""
        for word, tag in enumerate([*tags, "O"]):
            prefix, _, own = tag.partition("-")
            if kind and (prefix != "I" or own != kind):
                found.add((number, kind, start, word - 1))
                kind = ""
            if prefix in ("B", "I") and not kind:
                start, kind = word, own
    return found


def entity_figures(labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of all entities, the mean F1 of the types, and the tag accuracy.

    An entity is correct if its first word, last word and type are correct.
    """
    true, answered = entities(labels), entities(predictions)
    table = entity_table(labels, predictions)
    f1 = [row["f1"] for row in table.values()]
    pairs = list(zip(_flat(labels), _flat(predictions), strict=True))
    return {
        **_scores(len(true & answered), len(true), len(answered)),
        "macro_f1": float(np.mean(f1)) if f1 else 0.0,
        "accuracy": sum(a == b for a, b in pairs) / len(pairs),
    }


def entity_table(labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """{type: {precision, recall, f1, support}} for each type of entity in labels or predictions, sorted."""
    true, answered = entities(labels), entities(predictions)
    counts = [Counter(kind for _, kind, _, _ in found) for found in (true & answered, true, answered)]
    return {
        kind: {**_scores(*(count[kind] for count in counts)), "support": float(counts[1][kind])}
        for kind in sorted(counts[1].keys() | counts[2].keys())
    }


def tag_figures(labels: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]) -> dict[str, float]:
    """The accuracy and the mean F1 of tags without prefixes, such as parts of speech, over all words."""
    return metrics(("accuracy", "macro_f1"), np.array(list(_flat(labels))), np.array(list(_flat(predictions))))


def _scores(right: int, true: int, answered: int) -> dict[str, float]:
    precision, recall = right / answered if answered else 0.0, right / true if true else 0.0
    f1 = 2 * precision * recall / (precision + recall) if right else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def _flat(sentences: Iterable[Sequence[str]]) -> Iterator[str]:
    return (tag for tags in sentences for tag in tags)
