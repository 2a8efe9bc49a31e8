#!/bin/bash
# Fine-tunes a tagger of named entities on your own corpus, or on a made-up one, and tags a sentence.
#
#   bash examples/run_ner.sh [flags of run_ner.py]
#
# Environment variables:
#   TRAIN_FILE, VALIDATION_FILE   CoNLL columns or JSON lines (default: a made-up corpus)
#   PRETRAINED_MODEL              weights to start from (default: a randomly initialized very small model)
#   OUTPUT_DIR                    directory for results (default: ner_output)
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
PYTHON=$PWD/.venv/bin/python
[ -x "$PYTHON" ] || make setup

output=${OUTPUT_DIR:-ner_output}
sample=$output/sample
[ -n "${TRAIN_FILE:-}" ] || "$PYTHON" examples/sample_ner.py --output_dir "$sample"
data=(--train_file "${TRAIN_FILE:-$sample/train.conll}")
[ -n "${TRAIN_FILE:-}" ] && validation=${VALIDATION_FILE:-} || validation=${VALIDATION_FILE:-$sample/validation.conll}
[ -n "$validation" ] && data+=(--validation_file "$validation")
if [ -n "${PRETRAINED_MODEL:-}" ]; then
  model=(--init_checkpoint "$PRETRAINED_MODEL" --epochs 3)
else
  model=(--model_size tiny --vocab_file "$sample/vocab.txt" --learning_rate 1e-3 --max_seq_length 32 --epochs 4)
fi

"$PYTHON" run_ner.py "${data[@]}" "${model[@]}" --output_dir "$output/run" --resume "$@"
"$PYTHON" run_infer.py --model_path "$output/run" --text "Carla Diaz works for Acme Corp in New York."
