"""Starts the server processes and the port that they share."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import signal
import socket
import tempfile
from dataclasses import replace
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.supervisors import Multiprocess

import kernels
from configs.serve import ServeConfig
from kernels.cuda import wants_cuda
from serving.log import configure_logging, logger
from utils.errors import UserError
from utils.messages import warn

_STARTUP_FAILURE = 3  # uvicorn's exit code if the application fails to start
_MOST_CONNECTIONS, _BACKLOG = 4096, 2048


def serve(config: ServeConfig) -> None:
    """Serves until SIGTERM or SIGINT, then finishes the requests in flight.

    Raises:
        UserError: the port cannot be used.
        SystemExit: a model cannot be loaded.
    """
    config = replace(config, api_key=config.api_key or os.environ.get("API_KEY") or None)
    listener = _listen(config.host, config.port)
    configure_logging()
    host, port = listener.getsockname()[:2]
    if not ipaddress.ip_address(host.split("%")[0]).is_loopback and not config.api_key:
        warn(f"anyone who can reach {host}:{port} can use the service: set --api_key.")
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    logger.info("starting", extra={"fields": {"url": url, "workers": config.num_workers}})
    options: dict[str, Any] = {
        "app": partial(_create, config),
        "factory": True,
        "http": PatientProtocol,
        "loop": "uvloop",
        "ws": "none",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "limit_concurrency": _MOST_CONNECTIONS,
        "backlog": _BACKLOG,
        "timeout_graceful_shutdown": round(config.request_timeout) + 1,
        "workers": config.num_workers,
    }
    # uvicorn raises SIGTERM again after its shutdown; the exit code must still be 0.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with listener:
        if config.num_workers == 1:
            try:
                uvicorn.Server(uvicorn.Config(**options)).run([listener])
            except SystemExit as end:
                raise SystemExit(2 if end.code == _STARTUP_FAILURE else end.code) from None
            return
        with tempfile.TemporaryDirectory() as directory:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory
            supervisor = _Supervisor(uvicorn.Config(**options, timeout_worker_healthcheck=15), [listener])
            supervisor.run()
            if any(process.exitcode == _STARTUP_FAILURE for process in supervisor.processes):
                raise SystemExit(2)


def _listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (socket.gaierror, UnicodeError):
        raise UserError(f"--host {host} is not an address of this machine: omit the flag to use 127.0.0.1.") from None
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(_BACKLOG)  # clients that connect while models are loading wait
    except OSError as error:
        listener.close()
        raise UserError(f"--host {host} --port {port} cannot be used: {error.strerror}. Choose another one.") from None
    listener.set_inheritable(True)
    return listener


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, which also closes its own listener, so that no client connects during shutdown."""

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol, with a limit on the time that a request's headers may take."""

    seconds = 10.0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_headers()

    def on_message_begin(self) -> None:
        self._await_headers()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _await_headers(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(self.seconds, self.transport.close)


def _create(config: ServeConfig) -> Any:
    """The application of one process."""
    threads = config.num_threads
    if threads is None and config.num_workers > 1:
        threads = max(1, len(os.sched_getaffinity(0)) // config.num_workers)
    kernels.configure(threads, enabled=config.cpu_kernels, on_cuda=wants_cuda(config.device))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    from serving.app import create_app  # imports the framework after it is configured

    for number, handler in handlers.items():  # the framework installs handlers that end the process immediately
        signal.signal(number, handler)
    PatientProtocol.seconds = config.body_timeout
    return create_app(config)
