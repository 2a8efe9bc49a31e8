#!/bin/bash
# Pretraining in two phases: short sequences for most steps, then long ones, with LAMB and polynomial decay.
#
#   bash examples/pretrain_two_phases.sh [large|small]
#
# `large` is the published recipe: sequences of 128 with 32,768 of them an update for 14,064 steps, then 512 with 8,192
# for 6,248, on as many processes as RANKS says. `small` (the default) does the same steps in a few minutes on two cores.
#
# What it takes from the environment:
#   TEXT         files, one sentence a line, a blank line between documents (default: Python's own documentation)
#   VOCAB_FILE   the vocabulary (default: one is trained)
#   OUTPUT_DIR   everything goes here (default: two_phases)
#   RANKS        processes of this host (default: 1)
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
PYTHON=$PWD/.venv/bin/python
[ -x "$PYTHON" ] || make setup

size=${1:-small}
output=${OUTPUT_DIR:-two_phases}
ranks=${RANKS:-1}
mkdir -p "$output"
case $size in
  large) long=512 predictions=80 dupe=10 model=base vocab_size=30522
         rows1=$((32768 / 4 / ranks)) steps1=14064 warmup1=2812 rows2=$((8192 / 4 / ranks)) steps2=6248 warmup2=625 ;;
  small) long=512 predictions=80 dupe=1 model=tiny vocab_size=2000
         rows1=4 steps1=${STEPS_1:-45} warmup1=9 rows2=1 steps2=${STEPS_2:-5} warmup2=1 ;;
  *) echo "usage: bash examples/pretrain_two_phases.sh [large|small]" >&2; exit 2 ;;
esac

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
pretrain() {
  local launcher=("$PYTHON")
  [ "$ranks" -gt 1 ] && launcher+=(-m oneflow.distributed.launch --nproc_per_node "$ranks" --master_port 17788)
  "${launcher[@]}" run_pretraining.py --model_size $model --max_position_embeddings $long --optimizer lamb \
    --gradient_accumulation_steps 4 --learning_rate_decay_power 0.5 --end_learning_rate 0.0003 \
    --loss_print_every_n_iters 5 "$@"
}

prepare 128 20
prepare $long $predictions
pretrain --load_from scratch --ofrecord_path "$output/records-128" --output_dir "$output/phase1" --resume \
  --per_gpu_batch_size $rows1 --learning_rate 0.005 --warmup_steps $warmup1 --total_steps $steps1
pretrain --load_from checkpoint --load_optimizer_state false --checkpoint_path "$output/phase1" \
  --ofrecord_path "$output/records-$long" --output_dir "$output/phase2" --resume \
  --per_gpu_batch_size $rows2 --learning_rate 0.004 --warmup_steps $warmup2 --total_steps $steps2
