"""Several models in one budget, and models that cannot be loaded."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from configs.pooling import Pooling
from tests.serving.services import FIXTURES, ROOT

TEXT = {"inputs": "the cat"}


@pytest.fixture
def large(tmp_path):
    """A model of more than one MB, which two copies of exceed a budget of 2."""
    from configs.model import BertConfig
    from conversion.tokenizer_files import read_vocabulary
    from modeling import BertForPreTraining

    config = BertConfig(
        vocab_size=97,
        hidden_size=140,
        num_hidden_layers=1,
        num_attention_heads=7,
        intermediate_size=560,
        max_position_embeddings=53,
    )
    vocabulary = read_vocabulary(FIXTURES / "pretraining" / "vocab.txt")
    BertForPreTraining(config, seed=5).save_pretrained(tmp_path / "large", tokenizer=vocabulary.files(53))
    shutil.copytree(tmp_path / "large", tmp_path / "copy")
    return tmp_path


def test_models_take_turns_in_their_budget(start, large):
    service = start("--memory_budget_mb", 2, models=(f"a={large / 'large'}", f"b={large / 'copy'}"))
    assert service.metric("bert_loaded_models") == 1
    expected = service.post("/models/a/embed", TEXT).json()
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda i: service.post(f"/models/{'ab'[i % 2]}/embed", TEXT), range(24)))
    for answer in answers:
        np.testing.assert_allclose(answer.json(), expected, atol=1e-6)
    assert service.metric("bert_loaded_models") == 1


def test_a_directory_that_vanishes(start, large):
    service = start("--memory_budget_mb", 2, models=(f"a={large / 'large'}", f"b={large / 'copy'}"))
    shutil.rmtree(large / "copy")
    answer = service.post("/models/b/embed", TEXT)
    assert (
        answer.status == 424 and answer.json()["error_type"] == "Backend" and str(large) not in answer.json()["error"]
    )
    assert service.post("/models/a/embed", TEXT).status == 200
    shutil.rmtree(large / "large")
    assert service.post("/models/a/embed", TEXT).status == 200  # it is in memory
    assert service.get("/health").status == 200


def test_sentence_transformers_files_are_read(start, tmp_path):
    directory = tmp_path / "model"
    shutil.copytree(FIXTURES / "pretraining", directory)
    (directory / "1_Pooling").mkdir()
    for name, content in Pooling("cls").files(hidden_size=20).items():
        (directory / name).write_bytes(content)
    prompts = {"prompts": {"query": "the cat "}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    service = start(models=(f"st={directory}",))
    assert service.get("/info").json()["model_type"] == {"embedding": {"pooling": "cls"}}
    ((first, *_),) = service.post("/embed_all", {"inputs": "the cat sat"}).json()
    (vector,) = service.post("/embed", {"inputs": "sat", "prompt_name": "query", "normalize": False}).json()
    np.testing.assert_allclose(vector, first, atol=1e-5)


def test_ranking_with_one_label_and_with_two(start, tmp_path):
    paths = []
    for labels in (["relevant"], ["not_equivalent", "equivalent"], ["entailment", "not_entailment"]):
        directory = tmp_path / labels[0]
        shutil.copytree(FIXTURES / "classification", directory)
        from conversion import read_checkpoint, write_checkpoint

        checkpoint = read_checkpoint(directory)
        for name in ("classifier.weight", "classifier.bias"):
            checkpoint.state[name] = checkpoint.state[name][: len(labels)]
        settings = {**checkpoint.settings, "id2label": {str(i): label for i, label in enumerate(labels)}}
        settings.pop("label2id", None)
        (directory / "config.json").write_text(json.dumps(settings))
        from safetensors.numpy import save_file

        save_file(checkpoint.state, directory / "model.safetensors")
        paths.append(f"{labels[0]}={directory}")
        del write_checkpoint
    service = start(models=paths)
    body = {"query": "the cat", "texts": ["a dog ran", "the cat sat", "it"], "return_text": True}
    for name, positive in (("relevant", None), ("not_equivalent", "equivalent"), ("entailment", "entailment")):
        ranks = service.post(f"/models/{name}/rerank", body).json()
        assert [rank["score"] for rank in ranks] == sorted((rank["score"] for rank in ranks), reverse=True)
        for rank in ranks:
            assert rank["text"] == body["texts"][rank["index"]]
            found = service.post(f"/models/{name}/predict", {"inputs": ["the cat", rank["text"]]}).json()
            scores = {one["label"]: one["score"] for one in found}
            expected = scores[positive] if positive else 1 / (1 + np.exp(-scores["relevant"]))
            assert rank["score"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--model_path", "nowhere"), "nowhere does not exist"),
        (("--model_path", FIXTURES / "pretraining", FIXTURES / "pretraining"), "two models named 'pretraining'"),
        (("--model_path", "a b=x"), "NAME=PATH"),
        (("--model_path", FIXTURES / "pretraining", "--host", "256.1.1.1"), "is not an address"),
        (("--model_path", FIXTURES / "pretraining", "--port", "70000"), "between 0 and 65535"),
        ((), "--model_path is missing"),
    ],
)
def test_mistakes_end_the_command_with_one_line(flags, message):
    command = [sys.executable, "serve.py", "--port", "0", *map(str, flags)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if "libibverbs" not in line]
    assert len(lines) == 1 and message in lines[0]


def test_a_port_that_is_taken(service):
    command = [sys.executable, "serve.py", "--model_path", str(FIXTURES / "pretraining"), "--port", str(service.port)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and "cannot be used" in result.stderr
