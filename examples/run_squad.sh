#!/bin/bash
# Fine-tunes BERT on SQuAD, predicts the answers of the dev set and scores them.
#
#   bash examples/run_squad.sh [v1.1|v2.0] [flags of run_squad.py]
#
# Environment variables:
#   SQUAD_DIR          directory of train-VERSION.json and dev-VERSION.json (default: made-up questions, see below)
#   PRETRAINED_MODEL   weights to start from: a model or run directory, or a checkpoint of Hugging Face, TensorFlow or
#                      lazy OneFlow (default: a randomly initialized very small model)
#   VOCAB_FILE         vocabulary, if PRETRAINED_MODEL has none in its directory
#   OUTPUT_DIR         directory for checkpoints, logs, predictions and scores (default: squad_output/VERSION)
#
# Without SQUAD_DIR, the script makes a few thousand questions about Python's documentation. They show that every step
# works; the model does not learn much from them.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
PYTHON=$PWD/.venv/bin/python
[ -x "$PYTHON" ] || make setup

version=${1:-v1.1}
shift || true
case $version in
  v1.1) version_2_with_negative=False ;;
  v2.0) version_2_with_negative=True ;;
  *) echo "usage: bash examples/run_squad.sh [v1.1|v2.0] [flags of run_squad.py]" >&2; exit 2 ;;
esac
output=${OUTPUT_DIR:-squad_output/$version}

squad=${SQUAD_DIR:-}
if [ -n "$squad" ]; then
  [ -n "${PRETRAINED_MODEL:-}${VOCAB_FILE:-}" ] || { echo "error: SQUAD_DIR is set: set PRETRAINED_MODEL, too, or at least VOCAB_FILE." >&2; exit 2; }
else
  squad=${OUTPUT_DIR:-squad_output}/sample
  "$PYTHON" examples/sample_questions.py --output_dir "$squad" --version $version
fi

if [ -n "${PRETRAINED_MODEL:-}" ]; then
  model=(--init_checkpoint "$PRETRAINED_MODEL" --max_seq_length 384 --doc_stride 128 --learning_rate 3e-5 --epochs 3)
  [ -n "${VOCAB_FILE:-}" ] && model+=(--vocab_file "$VOCAB_FILE")
else
  vocab=${VOCAB_FILE:-$squad/vocab.txt}
  [ -f "$vocab" ] || "$PYTHON" prepare_data.py vocab --input_file "$squad/train-$version.txt" --vocab_file "$vocab" \
    --vocab_size 6000
  model=(--model_size tiny --vocab_file "$vocab" --max_seq_length 192 --doc_stride 64 --learning_rate 1e-3 --epochs 2)
fi

"$PYTHON" run_squad.py \
  --do_train --do_eval \
  --train_file "$squad/train-$version.json" \
  --predict_file "$squad/dev-$version.json" \
  --version_2_with_negative $version_2_with_negative \
  --batch_size_per_device 16 \
  --eval_batch_size_per_device 16 \
  --output_dir "$output" \
  --resume \
  "${model[@]}" "$@"

# Scores the prediction files like the official scripts.
odds=()
[ $version = v2.0 ] && odds=(--na-prob-file "$output/null_odds.json" --out-image-dir "$output/curves")
"$PYTHON" -m evaluation.squad "$squad/dev-$version.json" "$output/predictions.json" ${odds[@]+"${odds[@]}"}
