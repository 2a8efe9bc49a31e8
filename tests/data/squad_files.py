"""SQuAD files and a vocabulary for the tests of question answering."""

import json
import string

S, STRIDE, QUERY = 31, 7, 5
CONTEXT = (
    'John Smith (1895\u20131943) was born in Paris.\tHis cat, \u00c9tienne\u00a0II,\u202fsaid:\n\n"No!"  Japanese '
    "electronics \u6f22\u5b57 are the largest \u200b in the world, 1895 too"
)


def question(context, text, number, impossible=None, start=None):
    answers = [] if impossible else [{"text": text, "answer_start": context.find(text) if start is None else start}]
    found = {"id": f"q{number}", "question": f"Where is number {number} of the {text}?"[:40], "answers": answers}
    return found if impossible is None else found | {"is_impossible": impossible}


def squad(tmp_path, *paragraphs, name="squad.json"):
    """A SQuAD file of (context, questions) paragraphs."""
    data = [{"paragraphs": [{"context": context, "qas": qas}]} for context, qas in paragraphs]
    (tmp_path / name).write_text(json.dumps({"data": data}))
    return str(tmp_path / name)


def write_vocab(tmp_path):
    """A vocabulary of letters, punctuation and a few words."""
    letters = string.ascii_lowercase + string.digits + string.punctuation + "\u2013\u6f22"
    pieces = ["john", "the", "##se", "japan", "1895", "cat", "##e", "smith", "world", "in"]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *pieces]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(dict.fromkeys(tokens)) + "\n", encoding="utf-8")
    return str(path)
