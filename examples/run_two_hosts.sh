#!/bin/bash
# Pretrains BERT on several hosts (default: two). Run it on every host within five minutes:
#
#   MASTER_ADDR=10.0.0.1 bash examples/run_two_hosts.sh 0     # on the first host, whose address this is
#   MASTER_ADDR=10.0.0.1 bash examples/run_two_hosts.sh 1     # on the second host
#
# Flags of run_pretraining.py may follow; they must be the same on all hosts. Set HOSTS=4 for four hosts. DATA_DIR and
# OUTPUT_DIR must be on a disk shared by all hosts. Other environment variables: see examples/pretrain_settings.sh.
source "$(dirname "$0")/pretrain_settings.sh"
node_rank=${1:?pass the number of this host, counted from 0}
shift

exec "${LAUNCH[@]}" --nnodes "${HOSTS:-2}" --node_rank "$node_rank" \
  --master_addr "${MASTER_ADDR:?set it to the address of the first host}" \
  run_pretraining.py --use_consistent --output_dir "${OUTPUT_DIR:-demo_output/hosts}" "${FLAGS[@]}" "$@"
