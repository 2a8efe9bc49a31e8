"""The routes of Hugging Face's text-embeddings-inference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field, StrictBool, StrictInt

from serving.errors import EmptyInput, InvalidInput
from serving.models import ServedModel
from serving.responses import JsonResponse
from serving.routes.common import ERRORS, AnyService, Served, TokenIds
from serving.service import Keep, Service, Text, normalized

router = APIRouter(tags=["text-embeddings-inference"], responses=ERRORS)
_VERSION = "1.7.1"  # the version of text-embeddings-inference whose bodies these are


class Truncating(BaseModel):
    """Handling of texts that are too long: `truncate` cuts them, otherwise the request gets status 413."""

    truncate: StrictBool | None = None
    truncation_direction: Literal["right", "left", "Right", "Left"] = "right"

    def keep(self, service: Service) -> Keep:
        """The end of a text to keep if it is too long; None refuses such texts."""
        if not (service.config.auto_truncate if self.truncate is None else self.truncate):
            return None
        return "start" if self.truncation_direction.lower() == "right" else "end"


class EmbedAllRequest(Truncating):
    """A text, its token ids, or a list of texts and token ids."""

    inputs: str | TokenIds | list[str | TokenIds]
    prompt_name: str | None = None


class EmbedRequest(EmbedAllRequest):
    """Texts to embed; the vectors have length 1 unless `normalize` is false."""

    normalize: StrictBool = True
    dimensions: StrictInt | None = None


_Pair = Annotated[list[str], Field(min_length=1, max_length=2)]


class PredictRequest(Truncating):
    """A text, a pair of texts, or a list of [text] and [text, text]."""

    inputs: str | _Pair | list[_Pair]
    raw_scores: StrictBool = False


class RerankRequest(Truncating):
    """A query, and texts to rank by their relevance to it."""

    query: str
    texts: list[str]
    raw_scores: StrictBool = False
    return_text: StrictBool = False


class SimilarityInput(BaseModel):
    """A sentence, and those to compare with it."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(Truncating):
    """How the sentences are embedded."""

    prompt_name: str | None = None


class SimilarityRequest(BaseModel):
    """Sentences to compare."""

    inputs: SimilarityInput
    parameters: SimilarityParameters | None = None


class TokenizeRequest(BaseModel):
    """Texts to split into tokens."""

    inputs: str | list[str]
    add_special_tokens: StrictBool = True
    prompt_name: str | None = None


class DecodeRequest(BaseModel):
    """Token ids to turn into text."""

    ids: TokenIds | list[TokenIds]
    skip_special_tokens: StrictBool = True


class Prediction(BaseModel):
    """One label."""

    score: float
    label: str


class Rank(BaseModel):
    """One text of a RerankRequest."""

    index: int
    score: float
    text: str | None = None


class Token(BaseModel):
    """One token, with its start and end in the text."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


@router.post("/embed", response_model=list[list[float]])
async def embed(body: EmbedRequest, served: Served, service: AnyService) -> Response:
    """One vector for each text."""
    dimensions = checked_dimensions(served, body.dimensions)
    vectors = await service.embed(served, as_list(body.inputs), keep=body.keep(service), prompt_name=body.prompt_name)
    if body.normalize:
        return JsonResponse(normalized(vectors, dimensions))
    return JsonResponse([vector[:dimensions] for vector in vectors])


@router.post("/embed_all", response_model=list[list[list[float]]])
async def embed_all(body: EmbedAllRequest, served: Served, service: AnyService) -> Response:
    """A vector for each token of each text, [CLS] and [SEP] included."""
    vectors = await service.embed(
        served, as_list(body.inputs), keep=body.keep(service), pooling="tokens", prompt_name=body.prompt_name
    )
    return JsonResponse(vectors)


@router.post("/similarity", response_model=list[float])
async def similarity(body: SimilarityRequest, served: Served, service: AnyService) -> Response:
    """The cosine similarity of a sentence with each of the others."""
    parameters = body.parameters or SimilarityParameters()
    if not body.inputs.sentences:
        raise EmptyInput("`sentences` cannot be empty")
    texts = [body.inputs.source_sentence, *body.inputs.sentences]
    vectors = await service.embed(served, texts, keep=parameters.keep(service), prompt_name=parameters.prompt_name)
    first, *others = normalized(vectors)
    return JsonResponse([float(first @ other) for other in others])


@router.post("/predict", response_model=list[Prediction] | list[list[Prediction]])
async def predict(body: PredictRequest, served: Served, service: AnyService) -> Response:
    """The labels of each text with their scores, the most likely first."""
    inputs = body.inputs
    is_batch = not isinstance(inputs, str) and bool(inputs) and isinstance(inputs[0], list)
    pairs: Sequence[Any] = inputs if is_batch else [[inputs] if isinstance(inputs, str) else inputs]
    rows = [dict(zip(("text", "text_pair"), pair, strict=False)) for pair in pairs if pair]
    options = {"function": "none"} if body.raw_scores else {}
    answers = await service.answer(served, "text-classification", rows, options, keep=body.keep(service))
    return JsonResponse(answers if is_batch else answers[0])


@router.post("/rerank", response_model=list[Rank])
async def rerank(body: RerankRequest, served: Served, service: AnyService) -> Response:
    """The texts ranked by their relevance to the query, the most relevant first."""
    scores = await service.rerank(served, body.query, body.texts, keep=body.keep(service), raw_scores=body.raw_scores)
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    return JsonResponse(
        [
            {"index": index, "score": scores[index]} | ({"text": body.texts[index]} if body.return_text else {})
            for index in order
        ]
    )


@router.post("/tokenize", response_model=list[list[Token]])
async def tokenize(body: TokenizeRequest, served: Served, service: AnyService) -> Response:
    """The tokens of each text."""
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    return JsonResponse(
        await service.tokenize(served, texts, add_special_tokens=body.add_special_tokens, prompt_name=body.prompt_name)
    )


@router.post("/decode", response_model=list[str])
async def decode(body: DecodeRequest, served: Served, service: AnyService) -> Response:
    """The text of each list of token ids."""
    ids: Any = body.ids if body.ids and isinstance(body.ids[0], list) else [body.ids]
    return JsonResponse(await service.decode(served, ids, skip_special_tokens=body.skip_special_tokens))


@router.get("/info")
async def info(served: Served, service: AnyService) -> dict[str, Any]:
    """The model and the limits; `tasks` lists the supported tasks, the model's own task first."""
    description, config = served.description, service.config
    return {
        "model_id": served.name,
        "model_sha": None,
        "model_dtype": "float32",
        "model_type": _model_type(served),
        "max_concurrent_requests": config.max_concurrent_requests,
        "max_input_length": description.max_length,
        "max_batch_tokens": description.max_batch_tokens,
        "max_batch_requests": config.batch_size,
        "max_client_batch_size": config.max_client_batch_size,
        "auto_truncate": config.auto_truncate,
        "tokenization_workers": 2,
        "version": _VERSION,
        "sha": None,
        "docker_label": None,
        "tasks": description.tasks,
        "prompts": list(description.prompts),
    }


def as_list(inputs: Any) -> Sequence[Text]:
    """The texts of a body that contains one text, its token ids, or a list."""
    is_one = isinstance(inputs, str) or (bool(inputs) and isinstance(inputs[0], int))
    return [inputs] if is_one else inputs


def checked_dimensions(served: ServedModel, dimensions: int | None) -> int | None:
    """The number of dimensions to return; raises InvalidInput if the model has fewer."""
    hidden_size = served.description.config.hidden_size
    if dimensions is not None and not 1 <= dimensions <= hidden_size:
        raise InvalidInput(f"`dimensions` must be between 1 and {hidden_size}, not {dimensions}")
    return dimensions


def _model_type(served: ServedModel) -> dict[str, Any]:
    """The model's kind in text-embeddings-inference's words."""
    description = served.description
    if "text-classification" not in description.tasks:
        return {"embedding": {"pooling": {"first": "cls"}.get(description.pooling, description.pooling)}}
    labels = description.config.shown_labels
    classifier = {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    return {"reranker" if len(labels) == 1 else "classifier": classifier}
