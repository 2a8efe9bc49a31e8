"""Reads SQuAD files as examples, and converts examples to features."""

from data.squad.examples import SquadExample, questions, read_squad_examples, read_squad_json
from data.squad.features import SquadFeature, convert_examples_to_features, doc_spans, max_context

__all__ = [
    "SquadExample",
    "SquadFeature",
    "convert_examples_to_features",
    "doc_spans",
    "max_context",
    "questions",
    "read_squad_examples",
    "read_squad_json",
]
