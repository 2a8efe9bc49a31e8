"""Requests at random: every status is below 500, and the service keeps running."""

import json
import os
import random

PAIR = {"question": "who?", "context": "the cat sat . " * 9}
BODIES = {
    "/embed": {"inputs": ["the cat", "a dog"], "truncate": True, "normalize": False, "dimensions": 7},
    "/embed_all": {"inputs": "the cat", "truncation_direction": "left"},
    "/predict": {"inputs": "the cat"},
    "/models/classification/predict": {"inputs": [["a", "b"], ["c"]], "raw_scores": True},
    "/models/classification/text-classification": {"inputs": "a", "parameters": {"top_k": 2}},
    "/models/classification/rerank": {"query": "a", "texts": ["b", "c"], "return_text": True},
    "/models/question_answering/question-answering": {
        "inputs": PAIR,
        "parameters": {"top_k": 3, "max_seq_len": 37, "doc_stride": 11, "max_answer_len": 7},
    },
    "/tokenize": {"inputs": ["the cat"], "add_special_tokens": False},
    "/decode": {"ids": [[5, 6, 7]], "skip_special_tokens": True},
    "/similarity": {"inputs": {"source_sentence": "the cat", "sentences": ["a", "b"]}},
    "/fill-mask": {"inputs": "the [MASK] sat", "parameters": {"top_k": 3}},
    "/next-sentence": {"inputs": {"text": "a", "text_pair": "b"}},
    "/models/token_classification/token-classification": {
        "inputs": ["the cat"],
        "parameters": {"aggregation_strategy": "max"},
    },
    "/token-classification": {"inputs": "the cat"},
    "/": {"inputs": ["the [MASK]"]},
    "/v1/embeddings": {"input": "the cat", "model": "pretraining", "encoding_format": "base64"},
    "/models/other/embed": {"inputs": "a"},
    "/v1/models/other": {},
    "/%00": {},
    "/static/nothing": {},
}
WORDS = ["the", "cat", "[MASK]", "dog", "", " ", "\0", "é", "👍", "\ud800", "<script>", "\n", "中", "base64", "left"]
NUMBERS = [0, 1, -1, 7, 96, 97, 384, 1 << 31, 1 << 70, 0.5, 1e308, float("nan"), float("inf")]
COUNT = int(os.environ.get("FUZZED_REQUESTS", 400))


def value(chance, depth=0):
    """A JSON value at random."""
    kind = chance.randrange(10 if depth < 3 else 7)
    if kind < 3:
        return " ".join(chance.choices(WORDS, k=chance.choice((0, 1, 2, 5, 40, 300))))
    if kind < 6:
        return chance.choice(NUMBERS)
    if kind == 6:
        return chance.choice((None, True, False))
    if kind == 7:
        return {key: value(chance, depth + 1) for key in chance.sample(["inputs", "text", "top_k", "é"], 2)}
    return [value(chance, depth + 1) for _ in range(chance.choice((0, 1, 2, 9)))] * chance.choice((1, 1, 1, 40))


def changed(chance, content):
    """The content with some of its values in place of others."""
    if chance.random() < 0.15:
        return value(chance)
    if isinstance(content, dict):
        found = {key: changed(chance, one) for key, one in content.items() if chance.random() < 0.97}
        return found | ({"extra": value(chance)} if chance.random() < 0.1 else {})
    return [changed(chance, one) for one in content] if isinstance(content, list) else content


def damaged(chance, body):
    """Bytes that are cut, mixed with others, or only brackets."""
    place = chance.randrange(len(body) + 1)
    return chance.choice(
        (body[:place], body[:place] + bytes(chance.choices(range(256), k=5)) + body[place:], b"[" * 100_000)
    )


def test_requests_at_random(service):
    chance = random.Random(7)
    statuses = set()
    for number in range(COUNT):
        path = chance.choice(list(BODIES))
        body = json.dumps(changed(chance, BODIES[path])).encode()
        if chance.random() < 0.1:
            body = damaged(chance, body)
        method = chance.choice(["POST"] * 18 + ["GET", "PUT"])
        headers = {"Content-Type": chance.choice(["application/json"] * 19 + ["text/html"])}
        answer = service.request(method, path, body, headers)
        assert answer.status < 500 and answer.status != 429, (number, method, path, body[:500], answer.body)
        statuses.add(answer.status)
    assert {200, 400, 404, 405, 415, 422, 424} <= statuses
    assert service.get("/health").status == 200
