#!/bin/bash
# From raw text to GLUE figures on a CPU: prepares records, pretrains for a given time, fine-tunes with several seeds.
#
#   bash examples/budget_cpu.sh HOURS [flags of run_pretraining.py]
#
# HOURS is the time of pretraining, such as 0.5 or 20. Fine-tuning comes on top of it. Run the script again to continue
# after an interruption; a run whose time has passed is not repeated. Environment variables:
#   TEXT         raw text: a file or a directory, in any format of `prepare_data.py clean` (default: Python's
#                documentation)
#   GLUE_DIR     the GLUE data: CoLA/train.tsv, … (default: a small made-up RTE data set)
#   TASKS        GLUE tasks (default: "cola rte stsb", or "rte" without GLUE_DIR)
#   SEEDS        fine-tuning runs per task (default: 5)
#   MODEL_SIZE   one of Google's sizes (default: by HOURS)
#   VOCAB_SIZE   entries of the vocabulary (default: 8000)
#   OUTPUT_DIR   directory for all results (default: budget_output)
set -euo pipefail
hours=${1:?usage: bash examples/budget_cpu.sh HOURS [flags of run_pretraining.py]}
shift
[ -z "${TEXT:-}" ] || TEXT=$(realpath "$TEXT")
[ -z "${GLUE_DIR:-}" ] || GLUE_DIR=$(realpath "$GLUE_DIR")
output=$(realpath -m "${OUTPUT_DIR:-budget_output}")
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
PYTHON=${PYTHON:-$PWD/.venv/bin/python}
[ -x "$PYTHON" ] || make setup
mkdir -p "$output"

# A larger model learns more from an update, but makes fewer of them in the same time.
size=$(awk -v hours="$hours" 'BEGIN { print hours < 1 ? "tiny" : hours < 8 ? "mini" : "small" }')
size=${MODEL_SIZE:-$size}

if [ ! -f "$output/records/dataset.json" ]; then
  if [ -z "${TEXT:-}" ]; then
    "$PYTHON" -c 'import sys; from pathlib import Path; from examples.demo import write_python_documentation as write
write(Path(sys.argv[1]))' "$output/raw"
  fi
  "$PYTHON" prepare_data.py clean --input_file "${TEXT:-$output/raw}" --output_dir "$output/text" \
    --remove_duplicates documents --overwrite_output_dir
  "$PYTHON" prepare_data.py vocab --input_file "$output/text" --vocab_file "$output/vocab.txt" \
    --vocab_size "${VOCAB_SIZE:-8000}"
  # Full records without padding. Each epoch draws new masks, because a small text is read many times.
  "$PYTHON" prepare_data.py pretraining --input_file "$output/text" --output_dir "$output/records" \
    --vocab_file "$output/vocab.txt" --objective none --packing chunks --masking dynamic --max_seq_length 128 \
    --dupe_factor 1 --overwrite_output_dir
fi

"$PYTHON" run_pretraining.py --ofrecord_path "$output/records" --val_fraction 0.05 --output_dir "$output/pretraining" \
  --resume --train_hours "$hours" --model_size "$size" --train_batch_size 32 --lr 1e-3 --model_save_every_n_iter 500 "$@"

tasks=${TASKS:-cola rte stsb}
glue=${GLUE_DIR:-$output/sample}
if [ -z "${GLUE_DIR:-}" ]; then
  "$PYTHON" examples/sample_glue.py --output_dir "$glue"
  tasks=rte
fi
for task in $tasks; do
  "$PYTHON" run_glue.py --task_name "$task" --data_dir "$glue" --init_checkpoint "$output/pretraining" \
    --output_dir "$output/glue/$task" --resume --seeds "${SEEDS:-5}" --epochs 3 --train_batch_size 32 --lr 3e-4 \
    --max_seq_length 128 --padding longest
done
