"""Creates the application: routes, web page, error handlers and middleware."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from configs.serve import ServeConfig
from serving.errors import BadRequest, InvalidInput, NotFound, ServiceError, Unhealthy
from serving.log import configure_logging
from serving.middleware import App, RequestMiddleware
from serving.responses import error_response
from serving.routes import embeddings_inference, openai, tasks
from serving.routes.common import AnyService
from serving.service import Service

_PAGE = Path(__file__).parent / "page"


def create_app(config: ServeConfig) -> App:
    """The ASGI application; its models are loaded when it starts."""
    configure_logging()
    service = Service(config)
    app = FastAPI(
        title="OneFlow BERT",
        description="BERT over HTTP: embeddings, masks, answers and classes.",
        docs_url=None,  # FastAPI's documentation page loads scripts from another host
        redoc_url=None,
    )
    app.state.service = service
    for router in (embeddings_inference.router, tasks.router):
        app.include_router(router)
        app.include_router(router, prefix="/models/{model}", include_in_schema=False)
    app.include_router(openai.router)
    _add_service_routes(app)
    app.add_exception_handler(RequestValidationError, _invalid_body)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(Exception, _unexpected_error)
    guarded = RequestMiddleware(app, service)
    if not config.cors_origin:
        return guarded
    return CORSMiddleware(
        guarded,  # type: ignore[arg-type]
        allow_origins=config.cors_origin,
        allow_methods=("GET", "POST"),
        allow_headers=("authorization", "content-type"),
        expose_headers=("retry-after",),
    )


def _add_service_routes(app: FastAPI) -> None:
    @app.get("/health", tags=["service"])
    @app.head("/health", include_in_schema=False)
    @app.get("/ping", include_in_schema=False)
    async def health(service: AnyService) -> Response:
        """Status 200 while the service can answer."""
        if not service.batcher.is_alive:
            raise Unhealthy("the inference thread has ended")
        return Response()

    @app.get("/metrics", tags=["service"])
    async def metrics(service: AnyService) -> Response:
        """Counters and histograms in Prometheus' format."""
        return PlainTextResponse(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(_PAGE / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return FileResponse(_PAGE / "docs.html")

    app.mount("/static", StaticFiles(directory=_PAGE))


async def _invalid_body(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return error_response(request.url.path, BadRequest("the body is not JSON"))
    path = [str(part) for part in first["loc"][1:]]
    # If a field accepts several types, pydantic reports each of them; the field is enough.
    field = list(itertools.takewhile(lambda part: part != "str" and "[" not in part, path))
    reason = "it has the wrong type" if len(field) < len(path) else first["msg"].lower()
    where = f"`{'.'.join(field)[:100]}`" if field else "the body"
    return error_response(request.url.path, InvalidInput(f"{where} cannot be used: {reason[:200]}"))


async def _http_error(request: Request, error: Any) -> Response:
    refusal = ServiceError(str(error.detail))
    refusal.status, refusal.kind = error.status_code, "Validation"
    if error.status_code == 404:
        refusal = NotFound("this route does not exist: /docs lists all routes")
    elif error.status_code == 400:
        refusal = BadRequest("the body is not JSON")
    return error_response(request.url.path, refusal)


async def _service_error(request: Request, error: Any) -> Response:
    return error_response(request.url.path, error)


async def _unexpected_error(request: Request, error: Any) -> Response:
    return error_response(request.url.path, ServiceError("internal error"))
