"""Middleware for every request: API key, body limits, timeouts, cancellation, metrics and one log line."""

from __future__ import annotations

import asyncio
import hmac
import os
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serving.errors import (
    AnswerTimeout,
    BodyTimeout,
    InputTooLarge,
    Overloaded,
    ServiceError,
    Unauthorized,
    UnsupportedMediaType,
)
from serving.log import Trace, current_trace, logger
from serving.responses import error_response
from serving.service import Service
from utils.errors import UserError

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OPEN_PATHS = ("/", "/health", "/ping", "/metrics", "/docs", "/openapi.json", "/static/")  # GET without a key
_MOST_BUFFERED_BYTES = 256 << 20  # limit for the bodies of all requests together
# Read and discard this much of a body that is too large, because many clients ignore responses while they send.
_MOST_DISCARDED_BYTES = 32 << 20
_CLIENT_CLOSED = 499  # logged if the client disconnects before the answer
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"content-security-policy": b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    b"img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class RequestMiddleware:
    """ASGI middleware that reads each body within its limits, runs the application, and counts and logs the request."""

    def __init__(self, app: App, service: Service) -> None:
        self.app, self._service, self._config = app, service, service.config
        self._key = service.config.api_key
        self._buffered = 0  # bytes of bodies in memory
        self._in_flight = 0  # requests whose body has arrived

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await _Request(self, scope, receive, send).run()

    async def _live(self, receive: Receive, send: Send) -> None:
        """Loads the models at startup and closes the service at shutdown; a UserError ends startup with one line."""
        await receive()
        try:
            await self._service.models.start()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            await send({"type": "lifespan.startup.failed", "message": ""})
            return
        logger.info("ready", extra={"fields": {"process": os.getpid()}})
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(self._service.close)
        await send({"type": "lifespan.shutdown.complete"})

    def authorize(self, method: str, path: str, headers: dict[bytes, bytes]) -> None:
        """Raises Unauthorized if the route needs the API key and the request does not have it."""
        is_open = method in ("GET", "HEAD") and (path in _OPEN_PATHS[:-1] or path.startswith(_OPEN_PATHS[-1]))
        if self._key is None or is_open or method == "OPTIONS":
            return
        given = headers.get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + self._key.encode()):
            raise Unauthorized("the API key is missing or wrong: send the header `Authorization: Bearer KEY`")

    async def read_body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        """The request's body.

        Raises:
            BodyTimeout: it did not arrive in time.
            InputTooLarge: it is larger than `--payload_limit`.
            Overloaded: the bodies of all requests take too much memory.
            ConnectionResetError: the client disconnected.
        """
        limit = self._config.payload_limit
        too_large = InputTooLarge(f"the body is larger than {limit} bytes")
        declared = headers.get(b"content-length", b"0")
        if declared.isdigit() and int(declared[:20]) > limit + _MOST_DISCARDED_BYTES:
            raise too_large
        body = bytearray()

        async def read() -> None:
            received = 0
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionResetError
                chunk = message.get("body", b"")
                received += len(chunk)
                if received <= limit:
                    body.extend(chunk)
                    self._buffered += len(chunk)
                    if self._buffered > _MOST_BUFFERED_BYTES:
                        raise Overloaded("Model is overloaded")
                if not message.get("more_body") or received > limit + _MOST_DISCARDED_BYTES:
                    break
            if received > limit:
                raise too_large

        try:
            await asyncio.wait_for(read(), self._config.body_timeout)
        except asyncio.TimeoutError:
            raise BodyTimeout(f"the body did not arrive within {self._config.body_timeout:g} seconds") from None
        finally:
            self._buffered -= len(body)
        return bytes(body)

    async def answer(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> bool:
        """Runs the application within the time limit; returns False if the client disconnects before the answer.

        Raises:
            AnswerTimeout: the answer was not ready in time.
            Overloaded: too many requests are in flight.
        """
        if self._in_flight >= self._config.max_concurrent_requests:
            raise Overloaded("Model is overloaded")
        self._in_flight += 1
        self._buffered += len(body)
        self._service.metrics.requests_in_flight.set(self._in_flight)
        messages = iter([{"type": "http.request", "body": body}])

        async def replay() -> Message:
            message = next(messages, None)
            return message if message is not None else await asyncio.Future()

        work = asyncio.ensure_future(self.app(scope, replay, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({work, gone}, timeout=self._config.request_timeout, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return True
            if gone.done():
                return False
            raise AnswerTimeout(f"the answer was not ready within {self._config.request_timeout:g} seconds")
        finally:
            for task in (work, gone):
                task.cancel()
            await asyncio.gather(work, gone, return_exceptions=True)
            self._in_flight -= 1
            self._buffered -= len(body)
            self._service.metrics.requests_in_flight.set(self._in_flight)

    def account(self, request: _Request) -> None:
        """Counts the request and writes its log line."""
        route = getattr(request.scope.get("route"), "path", "unknown")
        method = request.scope["method"] if request.scope["method"] in ("GET", "HEAD", "POST", "OPTIONS") else "other"
        seconds = time.perf_counter() - request.started
        metrics, trace = self._service.metrics, request.trace
        metrics.requests.labels(route, method, str(request.status)).inc()
        metrics.request_seconds.labels(route).observe(seconds)
        fields: dict[str, Any] = {
            "method": request.scope["method"][:20],
            "path": request.scope["path"][:200],
            "status": request.status,
            "client": (request.scope.get("client") or ("",))[0],
            "duration_ms": round(seconds * 1000, 2),
        }
        if trace.model is not None:
            fields |= {"model": trace.model, "task": trace.task, "texts": trace.texts, "tokens": trace.tokens}
            for name in ("tokenization", "queue", "inference"):
                fields[f"{name}_ms"] = round(getattr(trace, name) * 1000, 2)
        logger.info("request", extra={"fields": fields})


class _Request:
    """One request, from its headers to its log line."""

    def __init__(self, middleware: RequestMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware, self.scope, self.receive, self._send = middleware, scope, receive, send
        self.started = time.perf_counter()
        self.trace = Trace()
        self.status = 0

    async def run(self) -> None:
        current_trace.set(self.trace)
        headers = dict(self.scope["headers"])
        method, path = self.scope["method"], self.scope["path"]
        try:
            # Read the body before any error, because many clients ignore responses while they send.
            body = await self._middleware.read_body(headers, self.receive)
            self._middleware.authorize(method, path, headers)
            if method != "POST":
                await self._middleware.app(self.scope, self.receive, self.send)
                return
            _check_media_type(headers)
            if not await self._middleware.answer(self.scope, body, self.receive, self.send):
                self.status = _CLIENT_CLOSED
        except ConnectionResetError:
            self.status = _CLIENT_CLOSED
        except ServiceError as error:
            await self._refuse(error)
        except Exception:
            logger.exception("a request failed", extra={"fields": {"path": path[:200]}})
            await self._refuse(ServiceError("internal error"))
        finally:
            self._middleware.account(self)

    async def send(self, message: Message) -> None:
        """Sends the application's answer with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *_HEADERS.items(), *self._timings()]
        await self._send(message)

    async def _refuse(self, error: ServiceError) -> None:
        if self.status:
            return  # the answer has already started
        response = error_response(self.scope["path"], error)
        if error.status in (408, 413):
            response.headers["connection"] = "close"  # the rest of the body is not read
        await response(self.scope, self.receive, self.send)

    def _timings(self) -> list[tuple[bytes, bytes]]:
        """The timing headers of text-embeddings-inference, in milliseconds."""
        trace = self.trace
        if not trace.tokens:
            return []
        milliseconds = {
            b"x-total-time": time.perf_counter() - self.started,
            b"x-tokenization-time": trace.tokenization,
            b"x-queue-time": trace.queue,
            b"x-inference-time": trace.inference,
        }
        counts = {b"x-compute-characters": trace.characters, b"x-compute-tokens": trace.tokens}
        return [
            *((name, str(round(value * 1000)).encode()) for name, value in milliseconds.items()),
            *((name, str(value).encode()) for name, value in counts.items()),
        ]


def _check_media_type(headers: dict[bytes, bytes]) -> None:
    media_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if media_type != b"application/json":
        raise UnsupportedMediaType("the body must be JSON: send the header `Content-Type: application/json`")
    if headers.get(b"content-encoding", b"identity").lower() not in (b"", b"identity"):
        raise UnsupportedMediaType("the body must not be compressed")


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
