"""Every route: the command's answers in the bodies of text-embeddings-inference, OpenAI and Hugging Face."""

import base64

import numpy as np
import pytest

from inference import load
from tests.serving.services import FIXTURES

TEXTS = ["the cat sat", "a dog", "the old river ran to the town . " * 4]
LONG = "cat " * 60
CLASSIFICATION, QUESTIONS, TAGGER = (
    f"/models/{name}" for name in ("classification", "question_answering", "token_classification")
)


@pytest.fixture(scope="module")
def models():
    return {
        name: load(FIXTURES / name)
        for name in ("pretraining", "classification", "question_answering", "token_classification")
    }


def unit(vectors):
    vectors = np.array(vectors)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_embed(service, models):
    expected = np.array(models["pretraining"].feature_extraction(TEXTS, pooling="mean"))
    found = service.post("/embed", {"inputs": TEXTS, "normalize": False}).json()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(service.post("/embed", {"inputs": TEXTS}).json(), unit(expected), atol=1e-5)
    found = service.post("/embed", {"inputs": TEXTS[0], "dimensions": 7}).json()
    np.testing.assert_allclose(found, unit(expected[:1, :7]), atol=1e-5)


def test_embed_token_ids(service):
    ids = [token["id"] for token in service.post("/tokenize", {"inputs": TEXTS[0]}).json()[0]]
    expected = service.post("/embed", {"inputs": TEXTS[0]}).json()
    for inputs in (ids, [ids], ids[1:-1]):
        np.testing.assert_allclose(service.post("/embed", {"inputs": inputs}).json(), expected, atol=1e-6)
    assert service.post("/embed", {"inputs": [97]}).status == 422


def test_embed_all(service, models):
    found = service.post("/embed_all", {"inputs": TEXTS}).json()
    for ours, theirs in zip(found, models["pretraining"].feature_extraction(TEXTS), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("direction", ["right", "Left"])
def test_truncation(service, models, direction):
    text = "dog " * 30 + LONG
    assert service.post("/embed", {"inputs": text}).status == 413
    words = text.split()
    kept = " ".join(words[:51] if direction == "right" else words[-51:])
    found = service.post("/embed", {"inputs": text, "truncate": True, "truncation_direction": direction}).json()
    np.testing.assert_allclose(found, unit([models["pretraining"].feature_extraction(kept, pooling="mean")]), atol=1e-5)


def test_truncation_of_a_pair_shortens_the_longer_text(service):
    answer = service.post(f"{CLASSIFICATION}/predict", {"inputs": ["the dog", LONG], "truncate": True})
    shorter = service.post(f"{CLASSIFICATION}/predict", {"inputs": ["the dog", "cat " * 48]})
    assert answer.status == 200
    assert answer.json()[0]["score"] == pytest.approx(shorter.json()[0]["score"], abs=1e-6)


def test_similarity(service):
    vectors = np.array(service.post("/embed", {"inputs": TEXTS}).json())
    found = service.post("/similarity", {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS[1:]}}).json()
    np.testing.assert_allclose(found, vectors[1:] @ vectors[0], atol=1e-6)


def test_predict(service, models):
    def close(found, expected):
        assert [one["label"] for one in found] == [one["label"] for one in expected]
        np.testing.assert_allclose([one["score"] for one in found], [one["score"] for one in expected], atol=1e-5)

    model = models["classification"]
    close(service.post(f"{CLASSIFICATION}/predict", {"inputs": "the cat"}).json(), model.text_classification("the cat"))
    close(
        service.post(f"{CLASSIFICATION}/predict", {"inputs": ["the cat", "sat"]}).json(),
        model.text_classification("the cat", "sat"),
    )
    single, pair = service.post(f"{CLASSIFICATION}/predict", {"inputs": [["the cat"], ["the cat", "sat"]]}).json()
    close(single, model.text_classification("the cat"))
    close(pair, model.text_classification("the cat", "sat"))
    raw = service.post(f"{CLASSIFICATION}/predict", {"inputs": "the cat", "raw_scores": True}).json()
    powers = np.exp([one["score"] for one in raw])
    np.testing.assert_allclose(
        powers / powers.sum(), [one["score"] for one in model.text_classification("the cat")], atol=1e-5
    )


def test_tokenize_and_decode(service):
    (tokens,) = service.post("/tokenize", {"inputs": "The CATs"}).json()
    assert [token["text"] for token in tokens] == ["[CLS]", "The", "CAT", "s", "[SEP]"]
    assert [token["special"] for token in tokens] == [True, False, False, False, True]
    assert [(token["start"], token["stop"]) for token in tokens[1:4]] == [(0, 3), (4, 7), (7, 8)]
    ids = [token["id"] for token in tokens]
    assert service.post("/decode", {"ids": ids}).json() == ["the cats"]
    assert service.post("/decode", {"ids": [ids, ids[:2]], "skip_special_tokens": False}).json() == [
        "[CLS] the cats [SEP]",
        "[CLS] the",
    ]
    (plain,) = service.post("/tokenize", {"inputs": ["The CATs"], "add_special_tokens": False}).json()
    assert plain == tokens[1:4]


def test_openai_embeddings(service):
    expected = service.post("/embed", {"inputs": TEXTS}).json()
    tokens = sum(map(len, service.post("/tokenize", {"inputs": TEXTS}).json()))
    plain = service.post("/v1/embeddings", {"input": TEXTS, "model": "pretraining"}).json()
    np.testing.assert_allclose([one["embedding"] for one in plain["data"]], expected, atol=1e-6)
    assert [one["index"] for one in plain["data"]] == [0, 1, 2]
    assert plain["model"] == "pretraining" and plain["usage"]["prompt_tokens"] == tokens
    body = {"input": TEXTS[0], "model": "pretraining", "encoding_format": "base64", "dimensions": 7}
    coded = service.post("/v1/embeddings", body).json()["data"][0]["embedding"]
    np.testing.assert_allclose(
        np.frombuffer(base64.b64decode(coded), np.float32), unit(np.array(expected[0])[:7]), atol=1e-5
    )
    names = [one["id"] for one in service.get("/v1/models").json()["data"]]
    assert names == ["pretraining", "classification", "question_answering", "token_classification"]
    assert service.get("/v1/models/classification").json()["id"] == "classification"


def test_huggingface_bodies(service, models):
    body = {"inputs": "the [MASK] sat", "parameters": {"top_k": 3}}
    found = service.post("/fill-mask", body).json()
    for ours, theirs in zip(found, models["pretraining"].fill_mask("the [MASK] sat", top_k=3), strict=True):
        assert ours == {**theirs, "score": pytest.approx(theirs["score"], abs=1e-5)}
    assert service.post("/", body).json() == found
    assert service.post("/fill-mask", {"inputs": ["the [MASK] sat"], "parameters": {"top_k": 3}}).json() == [found]
    pair = {"text": "a cat", "text_pair": "it ran"}
    expected = models["pretraining"].next_sentence(**pair)
    assert service.post("/next-sentence", {"inputs": pair}).json()["score"] == pytest.approx(
        expected["score"], abs=1e-5
    )
    ((best, *_),) = service.post(f"{CLASSIFICATION}/text-classification", {"inputs": "the cat"}).json()
    assert best["label"] == models["classification"].text_classification("the cat")[0]["label"]


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max", None])
def test_token_classification(service, models, strategy):
    text = "The CAT sat in the old town."
    body = {"inputs": text} | ({"parameters": {"aggregation_strategy": strategy}} if strategy else {})
    found = service.post(f"{TAGGER}/token-classification", body).json()
    expected = models["token_classification"].token_classification(text, aggregation_strategy=strategy or "simple")
    assert found and found == [{**one, "score": pytest.approx(one["score"], abs=1e-5)} for one in expected]
    assert service.post(f"{TAGGER}/token-classification", {**body, "inputs": [text]}).json() == [found]
    assert service.post(TAGGER + "/", body).json() == found


def test_question_answering(service, models):
    inputs = {"question": "who sat?", "context": "the cat sat . " * 20}
    options = {"top_k": 3, "max_seq_len": 37, "doc_stride": 11, "max_answer_len": 7}
    found = service.post(f"{QUESTIONS}/question-answering", {"inputs": inputs, "parameters": options}).json()
    expected = models["question_answering"].question_answering(
        **inputs, top_k=3, seq_length=37, doc_overlap=11, max_answer_length=7
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == {**theirs, "score": pytest.approx(theirs["score"], abs=1e-5)}
    assert service.post(f"{QUESTIONS}/question-answering", {"inputs": inputs}).json().keys() == expected[0].keys()


def test_info_health_and_docs(service):
    info = service.get("/info").json()
    assert info["model_id"] == "pretraining" and info["model_type"] == {"embedding": {"pooling": "mean"}}
    assert info["tasks"] == ["fill-mask", "next-sentence", "feature-extraction"] and info["max_input_length"] == 53
    assert set(service.get(f"{CLASSIFICATION}/info").json()["model_type"]) == {"classifier"}
    assert service.get("/health").status == service.get("/ping").status == 200
    routes = service.get("/openapi.json").json()["paths"]
    assert {"/embed", "/rerank", "/v1/embeddings", "/token-classification", "/health"} <= set(routes)
    assert service.metric("bert_batch_rows_count") > 0


WRONG = [
    ("/embed", b"{", 400),
    ("/embed", b"\xff\xfe", 400),
    ("/embed", b"", 422),
    ("/embed", b"[" * 100_000, 400),
    ("/embed", b'"text"', 422),
    ("/embed", {}, 422),
    ("/embed", {"inputs": 5}, 422),
    ("/embed", {"inputs": None}, 422),
    ("/embed", {"inputs": [[["a"]]]}, 422),
    ("/embed", {"inputs": "a", "truncate": "yes"}, 422),
    ("/embed", {"inputs": []}, 400),
    ("/embed", {"inputs": [" "]}, 422),
    ("/embed", {"inputs": [[]]}, 422),
    ("/embed", {"inputs": LONG}, 413),
    ("/embed", {"inputs": ["a"] * 257}, 413),
    ("/embed", {"inputs": [True]}, 422),
    ("/embed", {"inputs": "a", "dimensions": 16}, 422),
    ("/embed", {"inputs": "a", "prompt_name": "query"}, 422),
    ("/embed", b'{"inputs": "\\ud800"}', 422),
    ("/embed", {"inputs": [-1]}, 422),
    ("/embed", {"inputs": [1 << 40]}, 422),
    ("/predict", {"inputs": "a"}, 424),
    (f"{CLASSIFICATION}/predict", {"inputs": ["a", "b", "c"]}, 422),
    (f"{CLASSIFICATION}/predict", {"inputs": []}, 400),
    (f"{CLASSIFICATION}/rerank", {"query": "a", "texts": ["b"]}, 424),
    ("/fill-mask", {"inputs": "no mask"}, 422),
    ("/fill-mask", {"inputs": "[MASK]", "parameters": {"top_k": 0}}, 422),
    ("/fill-mask", {"inputs": "[MASK]", "parameters": {"targets": ["a"]}}, 422),
    ("/token-classification", {"inputs": "a"}, 424),
    ("/decode", {"ids": [99]}, 422),
    ("/tokenize", {"inputs": ""}, 422),
    ("/models/other/embed", {"inputs": "a"}, 404),
    ("/nothing", {}, 404),
    ("/v1/embeddings", {"input": "a", "model": "gpt"}, 404),
    ("/v1/embeddings", {"input": {}}, 400),
    ("/v1/embeddings", {"input": LONG}, 400),
    ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400),
]


@pytest.mark.parametrize("path, body, status", WRONG, ids=lambda value: str(value)[:60])
def test_wrong_requests_get_an_error_of_the_routes_form(service, path, body, status):
    answer = service.post(path, body)
    assert answer.status == status, answer.body
    error = answer.json()["error"]
    if path.startswith("/v1/"):
        assert error["message"] and error["type"] == "invalid_request_error"
    else:
        assert error and answer.json()["error_type"]
    assert service.get("/health").status == 200


def test_methods_and_media_types(service):
    assert service.get("/embed").status == 405
    for headers in (
        {"Content-Type": "text/plain"},
        {},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ):
        assert service.request("POST", "/embed", b'{"inputs": "a"}', headers).status == 415


def test_every_answer_forbids_foreign_content(service):
    for answer in (service.get("/"), service.get("/static/page.js"), service.post("/embed", {"inputs": "a"})):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert service.get("/static/../app.py").status == service.get("/static/%2e%2e/app.py").status == 404
