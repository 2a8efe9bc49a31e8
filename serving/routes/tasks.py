"""Hugging Face's inference bodies, `{"inputs": …, "parameters": …}`, with one route for each task.

To add a task, write its request class and add an entry to `TASKS`.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, StrictBool, StrictInt, ValidationError

from serving.errors import BadRequest, InvalidInput
from serving.responses import JsonResponse
from serving.routes import embeddings_inference
from serving.routes.common import ERRORS, AnyService, Served

router = APIRouter(tags=["tasks"], responses=ERRORS)
Rows = Sequence[Mapping[str, Any]]
TopK = Annotated[StrictInt, Field(ge=1, le=1000)]


class TextRequest(BaseModel):
    """A text, or a list of texts; the answer to a list is a list."""

    inputs: str | list[str]

    def rows(self) -> Rows:
        """The pipeline's rows."""
        return [{"text": text} for text in ([self.inputs] if isinstance(self.inputs, str) else self.inputs)]

    def options(self) -> dict[str, Any]:
        """The pipeline's options."""
        return {}

    def written(self, answers: list[Any]) -> Any:
        """The response's body."""
        return answers[0] if isinstance(self.inputs, str) else answers


class FillMaskParameters(BaseModel):
    """How masks are filled."""

    top_k: TopK = 5
    targets: list[str] | None = None


class FillMaskRequest(TextRequest):
    """Texts with one [MASK] or more."""

    parameters: FillMaskParameters | None = None

    def options(self) -> dict[str, Any]:
        parameters = self.parameters or FillMaskParameters()
        if parameters.targets is not None:
            raise InvalidInput("`targets` is not supported: request more tokens with `top_k`")
        return {"top_k": parameters.top_k}


class ClassificationParameters(BaseModel):
    """How labels are scored."""

    top_k: TopK | None = None
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None


class ClassificationRequest(TextRequest):
    """Texts to classify; the answer is a list for each text, even if there is only one."""

    parameters: ClassificationParameters | None = None

    def options(self) -> dict[str, Any]:
        function = self.parameters and self.parameters.function_to_apply
        return {"function": function} if function else {}

    def written(self, answers: list[Any]) -> Any:
        return [answer[: self.parameters and self.parameters.top_k] for answer in answers]


class Pair(BaseModel):
    """Two texts."""

    text: str
    text_pair: str


class NextSentenceRequest(BaseModel):
    """Two texts, or a list of such pairs."""

    inputs: Pair | list[Pair]

    def rows(self) -> Rows:
        return [pair.model_dump() for pair in ([self.inputs] if isinstance(self.inputs, Pair) else self.inputs)]

    def options(self) -> dict[str, Any]:
        return {}

    def written(self, answers: list[Any]) -> Any:
        return answers[0] if isinstance(self.inputs, Pair) else answers


class Question(BaseModel):
    """A question, and the text that answers it."""

    question: str
    context: str


class AnswerParameters(BaseModel):
    """How answers are found; lengths in tokens."""

    top_k: TopK = 1
    doc_stride: Annotated[StrictInt, Field(ge=0)] = 128
    max_answer_len: Annotated[StrictInt, Field(ge=1)] = 15
    max_seq_len: Annotated[StrictInt, Field(ge=1)] = 384
    handle_impossible_answer: StrictBool = False


class QuestionAnsweringRequest(BaseModel):
    """A question about a context; with `top_k` above 1 the answer is a list."""

    inputs: Question
    parameters: AnswerParameters | None = None

    def rows(self) -> Rows:
        return [self.inputs.model_dump()]

    def options(self) -> dict[str, Any]:
        parameters = self.parameters or AnswerParameters()
        return {
            "top_k": parameters.top_k,
            "doc_overlap": parameters.doc_stride,
            "max_answer_length": parameters.max_answer_len,
            "seq_length": parameters.max_seq_len,
            "may_be_empty": parameters.handle_impossible_answer,
        }

    def written(self, answers: list[Any]) -> Any:
        (found,) = answers
        one = self.parameters is None or self.parameters.top_k == 1
        return (found[0] if found else None) if one else found


class TokenClassificationParameters(BaseModel):
    """How tokens are combined into entities."""

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] = "simple"


class TokenClassificationRequest(TextRequest):
    """Texts in which to find entities."""

    parameters: TokenClassificationParameters | None = None

    def options(self) -> dict[str, Any]:
        return (self.parameters or TokenClassificationParameters()).model_dump()


TASKS: dict[str, type[BaseModel]] = {
    "fill-mask": FillMaskRequest,
    "question-answering": QuestionAnsweringRequest,
    "text-classification": ClassificationRequest,
    "token-classification": TokenClassificationRequest,
    "next-sentence": NextSentenceRequest,
}


async def _answer(task: str, body: Any, served: Served, service: AnyService) -> Response:
    answers = await service.answer(served, task, body.rows(), body.options())
    return JsonResponse(body.written(answers))


def _add(task: str, body_class: type[BaseModel]) -> None:
    # Annotations are evaluated here: FastAPI reads the body's class from them.
    async def endpoint(body: body_class, served: Served, service: AnyService) -> Response:  # type: ignore[valid-type]
        return await _answer(task, body, served, service)

    router.add_api_route(
        f"/{task}", endpoint, methods=["POST"], name=task.replace("-", "_"), description=body_class.__doc__
    )


for _task, _body_class in TASKS.items():
    _add(_task, _body_class)


@router.post("/")
async def own_task(request: Request, served: Served, service: AnyService) -> Response:
    """The model's own task, with the request and response of its route."""
    task = served.description.tasks[0]
    body_class = TASKS.get(task, embeddings_inference.EmbedRequest)
    try:
        body = body_class.model_validate(await request.json())
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()]) from None
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if isinstance(body, embeddings_inference.EmbedRequest):
        return await embeddings_inference.embed(body, served, service)
    return await _answer(task, body, served, service)
