"""Flags of serve.py."""

from __future__ import annotations

from dataclasses import dataclass

from configs.checks import at_least
from configs.cli import flag
from utils.errors import UserError


@dataclass(frozen=True)
class ServeConfig:
    """The flags of serve.py."""

    model_path: tuple[str, ...] = flag((), "models to serve: PATH or NAME=PATH; the first is the default")
    host: str = flag("127.0.0.1", "address to listen on; 0.0.0.0 for all interfaces")
    port: int = flag(8080, "port to listen on; 0 chooses a free port")
    api_key: str | None = flag(
        None, "key that clients send as `Authorization: Bearer KEY` (default: the environment variable API_KEY)"
    )
    cors_origin: tuple[str, ...] = flag((), "web origins that may call the service; * allows all")
    num_workers: int = flag(1, "processes that share the port, each with its own copy of the models")

    max_batch_tokens: int | None = flag(
        None, "largest batch, with its padding (default: 1024 on a CPU, 16384 on CUDA)", unit="tokens"
    )
    batch_size: int = flag(64, "largest batch", unit="texts")
    max_wait_ms: float = flag(10.0, "longest time that a batch waits for more requests", unit="milliseconds")
    max_queue_tokens: int = flag(
        131072, "largest number of tokens in the queue; further requests get status 429", unit="tokens"
    )
    max_concurrent_requests: int = flag(512, "requests answered at the same time; further ones get status 429")
    max_client_batch_size: int = flag(256, "largest number of texts in one request")
    payload_limit: int = flag(2_000_000, "largest request body", unit="bytes")
    body_timeout: float = flag(10.0, "longest time to receive a request's headers, and its body", unit="seconds")
    request_timeout: float = flag(60.0, "longest time to answer a request", unit="seconds")
    auto_truncate: bool = flag(False, "truncate texts that are too long, unless the request sets `truncate`")
    memory_budget_mb: int | None = flag(
        None,
        "memory for the weights of all models in one process; the least recently used models are unloaded",
        unit="MB",
    )

    pooling: str | None = flag(
        None,
        "how token vectors are combined into a text's embedding (default: as the model says, else mean)",
        choices=("first", "mean"),
    )
    seq_length: int | None = flag(None, "longest text (default: the model's)", unit="tokens")
    do_lower_case: bool | None = flag(None, "whether the vocabularies are uncased (default: as the models say)")
    trust_checkpoint: bool = flag(False, "trust the checkpoints: read flow.save directories, which contain a pickle")
    mode: str | None = flag(
        None,
        "compile the models, or run them operation by operation (default: graph on CUDA, eager on a CPU)",
        choices=("graph", "eager"),
    )
    device: str | None = flag(None, "cpu, cuda or cuda:N (default: CUDA if it is available)")
    num_threads: int | None = flag(None, "CPU threads of each process (default: the cores divided by --num_workers)")
    cpu_kernels: bool = flag(True, "use the CPU kernels that `make setup` builds")

    def __post_init__(self) -> None:
        if not self.model_path:
            raise UserError("--model_path is missing: pass a model directory or a checkpoint.")
        at_least(
            self,
            1,
            "num_workers",
            "batch_size",
            "max_batch_tokens",
            "max_queue_tokens",
            "max_concurrent_requests",
            "max_client_batch_size",
            "payload_limit",
            "memory_budget_mb",
            "num_threads",
        )
        if not 0 <= self.max_wait_ms < float("inf"):
            raise UserError(f"--max_wait_ms must be at least 0, not {self.max_wait_ms}.")
        for name in ("body_timeout", "request_timeout"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"--{name} must be above 0, not {getattr(self, name)}.")
        if not 0 <= self.port < 65536:
            raise UserError(f"--port must be between 0 and 65535, not {self.port}.")
        if self.api_key == "":
            raise UserError("--api_key is empty: set a key, or omit the flag.")
