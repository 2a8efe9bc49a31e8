"""What `load` accepts and refuses."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from configs.model import BertConfig
from conversion import read_checkpoint, write_checkpoint
from conversion.tokenizer_files import read_vocabulary
from inference import ArgumentError, load
from inference.model import build
from modeling import BertForPreTraining
from utils.errors import UserError

FIXTURES = Path(__file__).parents[1] / "fixtures" / "huggingface"
TEXT = "the cat [MASK] on a tree."


@pytest.fixture
def directory(tmp_path):
    return shutil.copytree(FIXTURES / "pretraining", tmp_path / "model")


@pytest.mark.parametrize("target", ["hf", "lazy", "oneflow", "tf"])
def test_every_format_answers_the_same(tmp_path, target):
    if target == "tf":
        pytest.importorskip("tensorflow")
    expected = load(FIXTURES / "pretraining", mode="eager").fill_mask(TEXT)
    write_checkpoint(read_checkpoint(FIXTURES / "pretraining"), tmp_path / target, target)
    assert load(tmp_path / target, mode="eager", trust_checkpoint=True).fill_mask(TEXT) == expected


def test_a_run_directory_means_its_newest_checkpoint(directory):
    run = directory.parent / "run"
    shutil.copytree(directory, run / "checkpoint-7")
    (run / "latest").write_text("checkpoint-7\n")
    assert load(run, mode="eager").fill_mask(TEXT) == load(directory, mode="eager").fill_mask(TEXT)


def test_missing_and_wrong_vocabularies(directory):
    vocabulary = directory / "vocab.txt"
    other = vocabulary.rename(directory.parent / "words.txt")
    with pytest.raises(UserError, match="vocab_file is missing"):
        load(directory, mode="eager").fill_mask(TEXT)
    assert load(directory, mode="eager", vocab_file=other).fill_mask(TEXT)
    ids, best = load(directory, mode="eager").fixed_example(top_k=3)
    assert max(ids) < 97 and len(best) == 3 and best[0][1] >= best[1][1]
    other.write_text(other.read_text() + "more\n")
    with pytest.raises(UserError, match="has 98 tokens, the model has 97"):
        load(directory, mode="eager", vocab_file=other)
    with pytest.raises(UserError, match="cannot be read"):
        load(directory, mode="eager", vocab_file=directory / "none.txt")


def test_casing_comes_from_the_config_or_the_vocabulary(directory, capsys):
    upper = (directory / "vocab.txt").read_text().replace("\ncat\n", "\nCat\n").replace("\ndog\n", "\nDog\n")
    (directory / "vocab.txt").write_text(upper.replace("\ntree\n", "\nTree\n").replace("\nriver\n", "\nRiver\n"))
    assert load(directory, mode="eager")._encoder.encode("Cat cat").tokens[0] == "Cat"
    assert load(directory, mode="eager", do_lower_case=True)._encoder.encode("Cat cat").tokens[0] != "Cat"
    assert capsys.readouterr().err.count("--do_lower_case True contradicts") == 1
    (directory / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    assert load(directory, mode="eager")._encoder.encode("Cat cat").tokens[0] != "Cat"
    (directory / "tokenizer_config.json").write_text("[")
    with pytest.raises(UserError, match=r"tokenizer_config\.json is not JSON"):
        load(directory, mode="eager")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device tpu is unknown"),
        ({"device": "cuda:99"}, "not usable"),
        ({"seq_length": 54}, "at most the model's maximum length, 53"),
        ({"seq_length": 3}, "above 3"),
        ({"sizes": {"hidden_size": 16}}, "--hidden_size 16 contradicts"),
        ({"source": "lazy"}, "contains no variable"),
    ],
)
def test_unusable_arguments_are_named(directory, options, message):
    with pytest.raises(UserError, match=message):
        load(directory, **options)


def test_seq_length_bounds_the_input(directory):
    with pytest.raises(UserError, match="at most 5"):
        load(directory, mode="eager", seq_length=5).fill_mask(TEXT)


@pytest.mark.parametrize("target", ["hf", "oneflow"])
def test_a_variant_of_the_encoder(directory, target):
    """A pre-norm encoder without biases loads, converts and answers like any other."""
    shape = {"norm": "pre", "final_norm": True, "linear_bias": False, "embedding_norm": False}
    config = dataclasses.replace(BertConfig.from_json(directory / "config.json"), **shape)
    BertForPreTraining(config, seed=3).save_pretrained(
        directory, tokenizer=read_vocabulary(FIXTURES / "pretraining").files(config.max_position_embeddings)
    )
    expected = load(directory, mode="eager")
    assert expected.config == config and expected.tasks[0] == "fill-mask"
    write_checkpoint(read_checkpoint(directory), directory.parent / target, target)
    found = load(directory.parent / target, mode="eager", trust_checkpoint=True)
    assert found.config == config
    assert found.fill_mask(TEXT) == expected.fill_mask(TEXT)
    for foreign in ("tf", "lazy"):
        with pytest.raises(UserError, match="variant"):
            write_checkpoint(read_checkpoint(directory), directory.parent / foreign, foreign)


def test_tasks_follow_the_heads():
    tasks = {
        name: load(FIXTURES / name, mode="eager").tasks
        for name in ("pretraining", "question_answering", "classification")
    }
    assert tasks == {
        "pretraining": ["fill-mask", "next-sentence", "feature-extraction"],
        "question_answering": ["question-answering", "feature-extraction"],
        "classification": ["text-classification", "feature-extraction"],
    }
    with pytest.raises(UserError, match="task fill-mask needs a masked-lm head"):
        load(FIXTURES / "question_answering", mode="eager").fill_mask("[MASK]")


def test_a_module_of_another_head_starts_at_zero():
    model = build(read_checkpoint(FIXTURES / "question_answering"), "classifier")
    assert float(model.classifier.weight.abs().sum().numpy()) == 0


def test_methods_take_lists():
    model = load(FIXTURES / "pretraining", mode="eager")
    first, second = model.next_sentence(["the cat sat", "a dog"], "she saw it.")
    assert first == pytest.approx(model.next_sentence("the cat sat", "she saw it."))
    assert second == pytest.approx(model.next_sentence("a dog", "she saw it."))
    assert model.next_sentence([], []) == []
    with pytest.raises(ArgumentError, match="text_pair must have 2 elements, like text, not 1"):
        model.next_sentence(["a", "b"], ["c"])
    model = load(FIXTURES / "question_answering", mode="eager")
    answers = model.question_answering("who?", ["the cat sat.", "a dog ran."], top_k=2)
    assert len(answers) == 2 and all(len(each) == 2 for each in answers)
