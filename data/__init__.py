"""Turns text into batches. Each part imports only those before it:

1. `text`: input files, documents, sentences,
2. `tokenization`: vocabularies, text to ids,
3. `records`: the features of a record, and record sets on disk in three formats,
4. `ofrecord`: OFRecord shards as a record set; `sources`: record sets of any format,
5. `reading`: the order of training, masks, batches,
6. `squad`: SQuAD files as examples and features; `long_text`, `tables`, `labels`, `splitting`, `tag_schemes`,
   `classification`, `glue`, `tagging`, `embedding`: the files of other tasks as examples and records,
7. `preparation`: the commands of `prepare_data.py`, in restartable pieces.

All of them may import `data.counter_random`.
"""
