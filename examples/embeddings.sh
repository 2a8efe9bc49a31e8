#!/usr/bin/env bash
# Trains a small embedding model on made-up questions and answers, evaluates it and searches with it, in about a minute.
#   bash examples/embeddings.sh [OUTPUT_DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
out=${1:-embeddings_output}

PYTHONPATH=. "$PYTHON" examples/sample_pairs.py --output_dir "$out/data"
"$PYTHON" prepare_data.py vocab --input_file "$out/data" --vocab_file "$out/vocab.txt" --vocab_size 180
"$PYTHON" run_embedding.py --train_file "$out/data/train.csv" --validation_file "$out/data/dev.csv" \
  --vocab_file "$out/vocab.txt" --model_size tiny --max_seq_length 24 --lr 1e-3 --epochs 8 --normalize \
  --output_dir "$out/model" --overwrite_output_dir
"$PYTHON" run_infer.py --model_path "$out/model" --task similarity \
  --text "is the lamp of the attic all right ?" --text_pair "the lamp that is in the attic works again ."
"$PYTHON" run_infer.py --model_path "$out/model" --task search --corpus_path "$out/data/corpus.txt" --top_k 3 \
  --text "what happened to the clock in the cellar ?"
