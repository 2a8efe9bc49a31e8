#!/usr/bin/env bash
# Asks a pretrained model: examples/infer.sh [MODEL_PATH]
# MODEL_PATH is a model directory, a run's output directory or a checkpoint of any format docs/conversion.md names.
# Without one, the demo's model is asked, and trained first where there is none.
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL_PATH=${1:-demo_output/run}
PYTHON=${PYTHON:-.venv/bin/python}
if [ "$MODEL_PATH" = demo_output/run ] && [ ! -e "$MODEL_PATH/latest" ]; then
  make demo
fi

# Tables on the terminal.
$PYTHON run_infer.py --model_path "$MODEL_PATH" \
  --text "the first argument must be a [MASK]." "[MASK] the [MASK] of the file."

# One JSON line for each line of a file, in its order; a line that cannot be answered says why.
printf '%s\n' "if the file does not [MASK], an error is raised." "nothing to fill in here" |
  $PYTHON run_infer.py --model_path "$MODEL_PATH" --input_path - --output_path - --top_k 2

# A vector for each text.
$PYTHON run_infer.py --model_path "$MODEL_PATH" --task feature-extraction --pooling mean --mode eager \
  --text "this function returns true." "the result is always false."
