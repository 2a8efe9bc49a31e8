"""Text to batches. Each part imports only those before it:

1. `text`: input files, documents, sentences,
2. `tokenization`: vocabularies, text to ids,
3. `records`: the features of a record, and record sets on disk in three formats,
4. `ofrecord`: OFRecord shards as a record set; `sources`: record sets in whichever format they are,
5. `reading`: the order of training, masks, batches,
6. `squad`, `glue`: the files of these tasks as examples and features,
7. `preparation`: the commands of `prepare_data.py`, in restartable pieces.

`data.counter_random` may be imported by all of them.
"""
