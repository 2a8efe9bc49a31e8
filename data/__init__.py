"""Text to batches. Each sub-package imports only those before it:

1. `text`: input files, documents, sentences, tokenization,
2. `records`: the features of a record, and record sets on disk in three formats,
3. `reading`: the order of training, masks, batches,
4. `datasets`: the files of SQuAD and GLUE as features,
5. `preparation`: the commands of `prepare_data.py`, in restartable pieces.

`data.counter_random` may be imported by all of them.
"""
