#!/bin/bash
# Pretrains BERT on all devices of this host in eager mode with data parallelism.
#
#   bash examples/run_eager_pretrain.sh [flags of run_eager_pretraining.py]
#
# Run the script again to continue an interrupted run. Environment variables: see examples/pretrain_settings.sh.
source "$(dirname "$0")/pretrain_settings.sh"

exec "${LAUNCH[@]}" --nnodes 1 --node_rank 0 --master_addr 127.0.0.1 \
  run_eager_pretraining.py --use_ddp --output_dir "${OUTPUT_DIR:-demo_output/eager}" "${FLAGS[@]}" "$@"
