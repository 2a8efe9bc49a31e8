#!/bin/bash
# Fine-tunes a classifier on your own texts, or on made-up reviews, and answers.
#
#   bash examples/run_classifier.sh [flags of run_classifier.py]
#
# Environment variables:
#   TRAIN_FILE         texts and labels (default: made-up reviews); a tenth is held out for validation
#   PRETRAINED_MODEL   weights to start from (default: a randomly initialized very small model)
#   OUTPUT_DIR         directory for results (default: classifier_output)
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
PYTHON=$PWD/.venv/bin/python
[ -x "$PYTHON" ] || make setup

output=${OUTPUT_DIR:-classifier_output}
if [ -n "${TRAIN_FILE:-}" ]; then
  data=(--train_file "$TRAIN_FILE" --validation_fraction 0.1)
else
  "$PYTHON" examples/sample_classifier.py --output_dir "$output/sample"
  sample=$output/sample
  data=(--train_file "$sample/train.csv" --validation_file "$sample/validation.csv" --test_file "$sample/test.csv"
    --text_column text --label_column sentiment)
fi
if [ -n "${PRETRAINED_MODEL:-}" ]; then
  model=(--init_checkpoint "$PRETRAINED_MODEL" --epochs 3)
else
  model=(--model_size tiny --vocab_file "$output/sample/vocab.txt" --learning_rate 1e-3 --max_seq_length 32 --epochs 4)
fi

"$PYTHON" run_classifier.py "${data[@]}" "${model[@]}" --output_dir "$output/run" --resume "$@"
"$PYTHON" run_infer.py --model_path "$output/run/best" --text "the film was great, and we had the soup."
