#!/bin/bash
# Pretrains BERT on two hosts. On each of them, within five minutes:
#
#   MASTER_ADDR=10.0.0.1 bash examples/run_two_hosts.sh 0     # on the first, whose address this is
#   MASTER_ADDR=10.0.0.1 bash examples/run_two_hosts.sh 1     # on the second
#
# More flags of run_pretraining.py may follow, the same on both. HOSTS=4 makes it four of them. What else it takes from
# the environment: examples/pretrain_settings.sh. DATA_DIR and OUTPUT_DIR are on a disk that both hosts see.
source "$(dirname "$0")/pretrain_settings.sh"
node_rank=${1:?the number of this host: 0 or 1}
shift

exec "${LAUNCH[@]}" --nnodes "${HOSTS:-2}" --node_rank "$node_rank" --master_addr "${MASTER_ADDR:?of the first host}" \
  run_pretraining.py --use_consistent --output_dir "${OUTPUT_DIR:-demo_output/hosts}" "${FLAGS[@]}" "$@"
