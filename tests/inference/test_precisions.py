"""The figures of a model in lower precision next to those in fp32."""

import json
from pathlib import Path

import pytest

import kernels
from configs.model import BertConfig
from configs.precisions import PrecisionsConfig
from conversion.tokenizer_files import read_vocabulary
from inference.precisions import compare
from modeling import BertForSequenceClassification
from utils.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "huggingface"
STATUS = kernels.load()
PRECISIONS = tuple(name for name, there in (("bf16", STATUS.bf16), ("int8", STATUS.int8)) if there)


def table(**flags):
    """{figure: its value in each precision}; the heading is under ""."""
    heading, *lines = compare(PrecisionsConfig(precisions=PRECISIONS, **flags)).splitlines()
    assert heading.split() == ["fp32", *PRECISIONS]
    columns = 1 + len(PRECISIONS)
    return {" ".join(line.split()[:-columns]): [float(word) for word in line.split()[-columns:]] for line in lines}


def test_texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("the cat [MASK] on a tree.\n\na dog and a cat.\nthe river [MASK] [MASK].\nthe tree.\n")
    figures = table(model_path=str(FIXTURES / "pretraining"), input_path=str(path))
    assert set(figures) == {"fill-mask: same most likely token", "vectors: mean cosine", "vectors: smallest cosine"}
    for exact, *others in figures.values():
        assert exact == 1
        assert all(0.98 < other <= 1 for other in others)


def test_squad(tmp_path):
    context = "the cat sat on a tree by the river."
    answers = [{"text": "a tree", "answer_start": 15}]
    questions = [{"id": str(i), "question": f"where sat the {who}?", "answers": answers} for i, who in enumerate("ab")]
    path = tmp_path / "dev.json"
    path.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [{"context": context, "qas": questions}]}]}))
    figures = table(model_path=str(FIXTURES / "question_answering"), squad_file=str(path))
    assert set(figures) == {"exact_match", "f1"}
    assert all(0 <= value <= 100 for values in figures.values() for value in values)


def test_glue(tmp_path):
    sizes = {"hidden_size": 15, "num_attention_heads": 5, "intermediate_size": 19, "num_hidden_layers": 2}
    config = BertConfig(vocab_size=97, max_position_embeddings=23, num_labels=2, **sizes)
    vocabulary = read_vocabulary(FIXTURES / "pretraining" / "vocab.txt")
    BertForSequenceClassification(config, seed=3).save_pretrained(tmp_path / "model", tokenizer=vocabulary.files(23))
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\nthe cat sat.\t1\na dog.\t0\nthe river.\t1\n")
    flags = {"glue_task": "sst2", "data_dir": str(tmp_path)}
    figures = table(model_path=str(tmp_path / "model"), **flags)
    assert set(figures) == {"dev accuracy"}
    assert all(0 <= value <= 1 for value in figures["dev accuracy"])
    with pytest.raises(UserError, match="has 5 labels, but the task 2"):
        table(model_path=str(FIXTURES / "classification"), **flags)


def test_refused_flags():
    with pytest.raises(UserError, match="one of --squad_file, --glue_task and --input_path"):
        PrecisionsConfig(model_path="m")
    with pytest.raises(UserError, match="--precisions int4"):
        PrecisionsConfig(model_path="m", precisions=("int4",), input_path="x")
    with pytest.raises(UserError, match="must be used together"):
        PrecisionsConfig(model_path="m", glue_task="rte")
