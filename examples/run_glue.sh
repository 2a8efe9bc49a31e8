#!/bin/bash
# Fine-tunes BERT on GLUE tasks and prints a summary over tasks and seeds.
#
#   bash examples/run_glue.sh [TASK|all] [flags of run_glue.py]
#
# Environment variables:
#   GLUE_DIR           the GLUE data: CoLA/train.tsv, … (default: a small made-up RTE data set)
#   PRETRAINED_MODEL   weights to start from (default: a randomly initialized very small model)
#   VOCAB_FILE         vocabulary, if PRETRAINED_MODEL has none in its directory
#   OUTPUT_DIR         directory for results (default: glue_output)
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
PYTHON=$PWD/.venv/bin/python
[ -x "$PYTHON" ] || make setup

task=${1:-rte}
shift || true
output=${OUTPUT_DIR:-glue_output}
glue=${GLUE_DIR:-}
if [ -z "$glue" ]; then
  glue=$output/sample
  "$PYTHON" examples/sample_glue.py --output_dir "$glue"
  VOCAB_FILE=${VOCAB_FILE:-$glue/vocab.txt}
  task=rte
fi
if [ -n "${PRETRAINED_MODEL:-}" ]; then
  model=(--init_checkpoint "$PRETRAINED_MODEL" --learning_rate 5e-5 --max_seq_length 128)
else
  model=(--model_size tiny --learning_rate 1e-3 --max_seq_length 48)
fi
[ -n "${VOCAB_FILE:-}" ] && model+=(--vocab_file "$VOCAB_FILE")

"$PYTHON" run_glue.py --task_name "$task" --data_dir "$glue" --output_dir "$output/runs" --resume --do_predict \
  --train_batch_size 32 --epochs 3 "${model[@]}" "$@"
