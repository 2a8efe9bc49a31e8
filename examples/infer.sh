#!/usr/bin/env bash
# Runs inference with a pretrained model: examples/infer.sh [MODEL_PATH]
# MODEL_PATH is a model directory, the output directory of a run, or a checkpoint in any format of docs/conversion.md.
# The default is the model of `make demo`, which is trained first if it does not exist.
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL_PATH=${1:-demo_output/run}
PYTHON=${PYTHON:-.venv/bin/python}
if [ "$MODEL_PATH" = demo_output/run ] && [ ! -e "$MODEL_PATH/latest" ]; then
  make demo
fi

# Prints tables.
$PYTHON run_infer.py --model_path "$MODEL_PATH" \
  --text "the first argument must be a [MASK]." "[MASK] the [MASK] of the file."

# Writes one JSON line per line of the input, in the same order. For the second one it is an error: it has no [MASK].
printf '%s\n' "if the file does not [MASK], an error is raised." "nothing to fill in here" |
  $PYTHON run_infer.py --model_path "$MODEL_PATH" --input_path - --output_path - --top_k 2

# Prints one vector per text.
$PYTHON run_infer.py --model_path "$MODEL_PATH" --task feature-extraction --pooling mean --mode eager \
  --text "this function returns true." "the result is always false."
