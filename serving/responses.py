"""Response bodies: JSON with numpy arrays, and errors."""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Response

from serving.errors import ServiceError


class JsonResponse(Response):
    """Plain values and numpy arrays as JSON; NaN and infinity become null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def error_response(path: str, error: ServiceError) -> Response:
    """An error in the form that the route's clients expect: OpenAI's under /v1/, else text-embeddings-inference's."""
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if not path.startswith("/v1/"):
        content: dict[str, Any] = {"error": str(error), "error_type": error.kind}
        return JsonResponse(content, error.status, headers)
    # OpenAI returns 400 for every invalid request.
    status = 400 if error.status in (413, 415, 422) else error.status
    kind = "invalid_request_error" if status < 424 else error.kind.lower()
    content = {"error": {"message": str(error), "type": kind, "param": None, "code": error.kind}}
    return JsonResponse(content, status, headers)
