"""Runs inference with a trained BERT in any checkpoint format.

from inference import load
model = load("output/demo")
model.fill_mask("the capital of france is [MASK].")
"""

import modeling  # noqa: F401  first, because it imports the framework without its startup messages
from inference.errors import ArgumentError, MissingVocabulary, UnsupportedTask
from inference.model import TASKS, Model, load, load_module

__all__ = ["TASKS", "ArgumentError", "MissingVocabulary", "Model", "UnsupportedTask", "load", "load_module"]
