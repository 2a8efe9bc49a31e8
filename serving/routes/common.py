"""Code shared by the routes."""

from __future__ import annotations

from typing import Annotated, Any, cast

from fastapi import Depends, Request
from pydantic import BaseModel, Field, StrictInt

from serving.models import ServedModel
from serving.service import Service

TokenIds = list[Annotated[StrictInt, Field(ge=0, lt=1 << 31)]]


class ErrorBody(BaseModel):
    """An error response of all routes except OpenAI's."""

    error: str
    error_type: str


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The body is not JSON, or there is nothing to answer."},
    404: {"model": ErrorBody, "description": "There is no such model."},
    413: {"model": ErrorBody, "description": "Too many texts, a text that is too long, or a body that is too large."},
    422: {"model": ErrorBody, "description": "The body has the wrong fields, or a text cannot be used for the task."},
    424: {"model": ErrorBody, "description": "The model has no head for the task, or cannot be loaded."},
    429: {"model": ErrorBody, "description": "The queue is full: try again after the time in Retry-After."},
}


async def service_of(request: Request) -> Service:
    """The service that the application was made for."""
    return cast(Service, request.app.state.service)


AnyService = Annotated[Service, Depends(service_of)]


async def served_model(request: Request, service: AnyService) -> ServedModel:
    """The model that the path names, or the default."""
    return service.models.find(request.path_params.get("model"))


Served = Annotated[ServedModel, Depends(served_model)]
