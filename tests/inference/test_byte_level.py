"""Models with byte-level tokenizers answer texts: masks, answers and labels are computed on the tokenizer's own ids."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from configs.model import BertConfig
from conversion import families, write_checkpoint
from conversion.checkpoint import read_checkpoint
from conversion.names import rows
from inference import load
from tests.byte_level import TEXT, write_tokenizer

KINDS = {
    "roberta": {"type_vocab_size": 1, "position_offset": 3},
    "distilbert": {"segment_embeddings": False, "pooler_activation": "relu"},
}
GROUPS = {"BertForMaskedLM": "masked-lm head", "BertForQuestionAnswering": "question-answering head"}


def model_directory(directory, kind, architecture):
    """A random model of a family, with the ids of its tokenizer."""
    directory.mkdir()
    tokenizer = write_tokenizer(directory, kind if kind == "roberta" else "modernbert")
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "hidden_size": 14, "num_attention_heads": 2, "pad_token_id": 2}
    sizes |= {"num_hidden_layers": 2, "intermediate_size": 11, "max_position_embeddings": 90}
    config = BertConfig(**sizes, **KINDS[kind])
    axes = {"V": config.vocab_size, "L": 90 + config.position_offset, "T": config.type_vocab_size, "I": 11}
    axes |= dict.fromkeys("EH", 14)
    random, wanted = np.random.default_rng(7), ("encoder", GROUPS[architecture])
    state = {
        row.name: random.normal(float(row.name.endswith("LayerNorm.weight")), 0.3, row.shape(axes)).astype(np.float32)
        for row in rows(2)
        if row.group in wanted and config.has_parameter(row.name)
    }
    settings, tensors, _ = families.write(config, state, architecture, None)
    assert settings["model_type"] == kind
    save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(settings))
    return tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_may_have_berts_name_or_its_own(tmp_path, kind):
    tokenizer = model_directory(tmp_path / "m", kind, "BertForMaskedLM")
    model = load(tmp_path / "m")
    own = "<mask>" if kind == "roberta" else "[MASK]"
    for text in (f"Anna lives in {own}.", f"{own} lives in {own}."):
        answers = model.fill_mask(text.replace(own, "[MASK]"), top_k=2)
        assert answers == model.fill_mask(text, top_k=2)
        best = answers[0] if text.count(own) == 1 else answers[-1][0]
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        last = max(number for number, index in enumerate(ids) if index == tokenizer.token_to_id(own))
        ids[last] = best["token"]
        assert best["sequence"] == tokenizer.decode(ids, skip_special_tokens=False)
        assert best["token_str"] == tokenizer.decode([best["token"]], skip_special_tokens=False)


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_spans_of_the_context(tmp_path, kind):
    model_directory(tmp_path / "m", kind, "BertForQuestionAnswering")
    model, context = load(tmp_path / "m"), TEXT[1]
    for answer in model.question_answering("Where does Anna live?", context, top_k=5):
        assert answer["answer"] == context[answer["start"] : answer["end"]] == answer["answer"].strip() != ""
    # Windows: several of them give the answers of their own tokens.
    answers = model.question_answering("Who?", " ".join([context] * 4), top_k=3, seq_length=40, doc_overlap=9)
    assert all(answer["answer"] for answer in answers)


def test_a_conversion_keeps_all_files_of_the_tokenizer(tmp_path):
    model_directory(tmp_path / "m", "roberta", "BertForMaskedLM")
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "m" / name).write_text("{}")
    write_checkpoint(read_checkpoint(tmp_path / "m"), tmp_path / "out")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "m" / name).read_bytes()
    write_checkpoint(read_checkpoint(tmp_path / "m"), tmp_path / "out", overwrite=True)
    shutil.rmtree(tmp_path / "m")
    assert load(tmp_path / "out").fill_mask("Anna lives in <mask>.")
