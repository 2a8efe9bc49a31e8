"""Error responses, with the names of text-embeddings-inference."""

from __future__ import annotations


class ServiceError(Exception):
    """An error that is reported to the client.

    Attributes:
        status: the HTTP status code.
        kind: the `error_type` of the body.
        retry_after: seconds after which the client may retry, if that is useful.
    """

    status = 500
    kind = "Backend"
    retry_after: int | None = None


class BadRequest(ServiceError):
    """The request is malformed, for example its body is not JSON."""

    status, kind = 400, "Validation"


class EmptyInput(ServiceError):
    """There is no text to answer."""

    status, kind = 400, "Empty"


class Unauthorized(ServiceError):
    """The API key is missing or wrong."""

    status, kind = 401, "Unauthorized"


class NotFound(ServiceError):
    """There is no such route or model."""

    status, kind = 404, "NotFound"


class BodyTimeout(ServiceError):
    """The body did not arrive in time."""

    status, kind = 408, "Timeout"


class InputTooLarge(ServiceError):
    """The body, the number of texts or one of the texts exceeds its limit."""

    status, kind = 413, "Validation"


class UnsupportedMediaType(ServiceError):
    """The body is declared as something other than JSON."""

    status, kind = 415, "Validation"


class InvalidInput(ServiceError):
    """The body is JSON, but not in the form that the route accepts."""

    status, kind = 422, "Validation"


class InvalidText(ServiceError):
    """A text cannot be used for the task."""

    status, kind = 422, "Tokenizer"


class CannotCompute(ServiceError):
    """The model has no head for the task, cannot be loaded, or failed."""

    status, kind = 424, "Backend"


class Overloaded(ServiceError):
    """The queue is full."""

    status, kind = 429, "Overloaded"

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = max(1, min(60, round(retry_after)))


class Unhealthy(ServiceError):
    """The service cannot answer any request."""

    status, kind = 503, "Unhealthy"


class AnswerTimeout(ServiceError):
    """The answer was not ready in time."""

    status, kind = 504, "Timeout"
