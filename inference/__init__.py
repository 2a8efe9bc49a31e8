"""Answers from a trained BERT, whatever format it is in.

from inference import load
model = load("output/demo")
model.fill_mask("the capital of france is [MASK].")
"""

import modeling  # noqa: F401  first of all: it imports the framework without its start-up noise
from inference.model import TASKS, Model, load

__all__ = ["TASKS", "Model", "load"]
