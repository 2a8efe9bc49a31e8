#!/bin/bash
# Pretrains BERT in two phases, most steps on short sequences and the rest on long ones, with LAMB and polynomial decay.
#
#   bash examples/pretrain_two_phases.sh [large|small]
#
# `large` is the published recipe: 14,064 steps with 32,768 sequences of 128 tokens each, then 6,248 steps with 8,192
# sequences of 512 tokens. `small` (the default) goes through the same stages in a few minutes on two cores. The
# settings of the phases are in examples/phases_large.json and examples/phases_small.json.
#
# Run the script again to continue an interrupted run.
#
# Environment variables:
#   TEXT         text files, one sentence per line, blank lines between documents (default: Python's documentation)
#   VOCAB_FILE   vocabulary (default: one is trained on the text)
#   OUTPUT_DIR   directory for all files (default: demo_output/two_phases)
#   RANKS        processes on this host (default: 1)
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
PYTHON=$PWD/.venv/bin/python
[ -x "$PYTHON" ] || make setup

size=${1:-small}
case $size in
  large) dupe=10 model=base vocab_size=30522 ;;
  small) dupe=1 model=tiny vocab_size=2000 ;;
  *) echo "usage: bash examples/pretrain_two_phases.sh [large|small]" >&2; exit 2 ;;
esac
phases=$PWD/examples/phases_$size.json
output=$(realpath -m "${OUTPUT_DIR:-demo_output/two_phases}")
ranks=${RANKS:-1}
mkdir -p "$output"

if [ -z "${TEXT:-}" ]; then
  TEXT=$output/sentences/*
  "$PYTHON" -c "import pathlib, examples.demo as demo; demo.write_python_documentation(pathlib.Path('$output/text'))"
  "$PYTHON" prepare_data.py clean --input_file "$output/text" --output_dir "$output/sentences"
fi
vocab=${VOCAB_FILE:-$output/vocab.txt}
[ -f "$vocab" ] || "$PYTHON" prepare_data.py vocab --input_file "$TEXT" --vocab_file "$vocab" --vocab_size $vocab_size

prepare() {  # length predictions
  "$PYTHON" prepare_data.py pretraining --input_file "$TEXT" --vocab_file "$vocab" --output_dir "$output/records-$1" \
    --max_seq_length "$1" --max_predictions_per_seq "$2" --dupe_factor $dupe --num_shards 4
}
prepare 128 20
prepare 512 80

launcher=("$PYTHON")
[ "$ranks" -gt 1 ] && launcher+=(-m oneflow.distributed.launch --nproc_per_node "$ranks" --master_port 17788)
main=$PWD/run_pretraining.py
cd "$output"  # the paths in the phases file are relative to it
"${launcher[@]}" "$main" --phases "$phases" --output_dir . --resume --model_size $model --optimizer lamb \
  --gradient_accumulation_steps 4 --learning_rate_decay_power 0.5 --end_learning_rate 0.0003 \
  --loss_print_every_n_iters 5
