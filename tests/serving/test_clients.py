"""Other projects' clients, unmodified."""

import numpy as np
import pytest

TEXTS = ["the cat sat", "a dog"]


def test_hugging_face_client(service):
    client = pytest.importorskip("huggingface_hub").InferenceClient
    vectors = client(model=f"{service.url}/embed").feature_extraction(TEXTS[0], normalize=True)
    np.testing.assert_allclose(vectors, service.post("/embed", {"inputs": TEXTS[0]}).json(), atol=1e-6)
    found = client(model=f"{service.url}/fill-mask").fill_mask("the [MASK] sat", top_k=3)
    assert len(found) == 3 and found[0].score >= found[1].score
    answer = client(model=f"{service.url}/models/question_answering/question-answering").question_answering(
        question="who sat?", context="the cat sat."
    )
    assert answer.answer in "the cat sat."
    labels = client(model=f"{service.url}/models/classification/text-classification").text_classification("the cat")
    assert {one.label for one in labels} == {"red", "green", "blue", "white", "grey"}
    similarity = client(model=f"{service.url}/similarity").sentence_similarity(TEXTS[0], TEXTS)
    assert similarity[0] == pytest.approx(1, abs=1e-5)


def test_openai_client(service):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0)
    expected = service.post("/embed", {"inputs": TEXTS}).json()
    for options in ({}, {"encoding_format": "float"}):  # by itself the client asks for base64
        found = client.embeddings.create(model="pretraining", input=TEXTS, **options)
        np.testing.assert_allclose([one.embedding for one in found.data], expected, atol=1e-6)
    assert next(iter(client.models.list())).id == "pretraining"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="other", input="a")
    with pytest.raises(openai.BadRequestError, match="tokens"):
        client.embeddings.create(model="pretraining", input="cat " * 60)


def test_langchain_client(service):
    langchain = pytest.importorskip("langchain_huggingface")
    embeddings = langchain.HuggingFaceEndpointEmbeddings(model="any", huggingfacehub_api_token="unused")
    # Its constructor takes names of the hub only; the client that it asks takes an address.
    embeddings.client = pytest.importorskip("huggingface_hub").InferenceClient(model=f"{service.url}/embed")
    expected = service.post("/embed", {"inputs": TEXTS}).json()
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), expected[0], atol=1e-6)
