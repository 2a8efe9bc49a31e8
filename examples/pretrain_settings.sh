# Settings shared by the pretraining scripts in this directory, which source this file.
#
# Environment variables:
#   DATA_DIR      shards made by `prepare_data.py pretraining`; every host needs them under the same path
#   OUTPUT_DIR    directory for checkpoints, logs and metrics, on a disk shared by all hosts
#   RANKS         processes on this host (default: the number of its CUDA devices, or 2 if it has none)
#   MASTER_PORT   a free port (default: 17788)
#
# Without DATA_DIR, the scripts prepare records from Python's documentation and train a very small model for a few
# steps, to show that everything works.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1
PYTHON=$PWD/.venv/bin/python
[ -x "$PYTHON" ] || make setup

RANKS=${RANKS:-$({ nvidia-smi --list-gpus 2>/dev/null || true; } | wc -l)}
[ "$RANKS" -gt 0 ] || RANKS=2
MASTER_PORT=${MASTER_PORT:-17788}
LAUNCH=("$PYTHON" -m oneflow.distributed.launch --nproc_per_node "$RANKS" --master_port "$MASTER_PORT")

if [ -n "${DATA_DIR:-}" ]; then
  FLAGS=(--model_size base --train-batch-size 32 --grad-acc-steps 8 --lr 1e-4 --warmup_proportion 0.01)
else
  DATA_DIR=demo_output/records
  mkdir -p demo_output
  exec 9>demo_output/.lock
  flock 9  # only one of several hosts that share this directory prepares the records
  if [ ! -f $DATA_DIR/dataset.json ]; then
    "$PYTHON" -c 'from pathlib import Path; from examples.demo import write_python_documentation as write
write(Path("demo_output/raw"))'
    "$PYTHON" prepare_data.py clean --input_file demo_output/raw --output_dir demo_output/text --overwrite_output_dir
    "$PYTHON" prepare_data.py vocab --input_file demo_output/text --vocab_file demo_output/words.txt --vocab_size 6000
    "$PYTHON" prepare_data.py pretraining --input_file demo_output/text --output_dir $DATA_DIR --num_shards 3 \
      --vocab_file demo_output/words.txt --max_seq_length 64 --max_predictions_per_seq 10 --dupe_factor 1
  fi
  exec 9>&-
  FLAGS=(--model_size tiny --train-batch-size 8 --grad-acc-steps 2 --lr 1e-3 --max_steps 40)
fi
FLAGS+=(--ofrecord_path "$DATA_DIR" --val_fraction 0.3 --resume)
