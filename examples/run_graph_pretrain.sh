#!/bin/bash
# Pretrains BERT on all devices of this host, compiled in nn.Graph with global tensors.
#
#   bash examples/run_graph_pretrain.sh [flags of run_pretraining.py]
#
# Run the script again to continue an interrupted run. Environment variables: see examples/pretrain_settings.sh.
source "$(dirname "$0")/pretrain_settings.sh"

exec "${LAUNCH[@]}" --nnodes 1 --node_rank 0 --master_addr 127.0.0.1 \
  run_pretraining.py --use_consistent --output_dir "${OUTPUT_DIR:-demo_output/graph}" "${FLAGS[@]}" "$@"
