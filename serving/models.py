"""The served models, and which of them are in memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from configs.model import BertConfig
from configs.pooling import PROMPTS_FILE
from inference import Model
from serving.batcher import Batcher
from serving.errors import CannotCompute, NotFound
from serving.log import logger
from serving.metrics import Metrics
from utils.errors import UserError
from utils.json_file import read_settings

Pooling = Literal["first", "mean", "max"]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def parse_model_paths(values: Sequence[str]) -> dict[str, str]:
    """Splits `NAME=PATH` values into {name: path}; without a name, the path's last part is the name.

    Raises:
        UserError: two models have the same name, or a name has characters other than letters, digits, `.`, `_`, `-`.
    """
    paths: dict[str, str] = {}
    for value in values:
        name, equals, path = value.partition("=")
        if not equals or "/" in name or Path(value).exists():
            name, path = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(value).resolve().name).strip("-._") or "model", value
        if not _NAME.fullmatch(name) or not path:
            raise UserError(
                f"--model_path {value}: write PATH or NAME=PATH, with a name of letters, digits, . _ and -."
            )
        if name in paths:
            raise UserError(f"--model_path has two models named {name!r}: give them different names with NAME=PATH.")
        paths[name] = path
    return paths


@dataclass(frozen=True)
class Description:
    """Properties of a model that are available even when its weights are not in memory.

    Attributes:
        tasks: the supported tasks, the default task first.
        max_length: maximum input length, in tokens.
        max_batch_tokens: maximum batch size, in tokens with padding.
        pooling: how token vectors are combined into a text's vector.
        prompts: {name: prefix for texts to embed}.
        num_bytes: size of the weights in memory.
    """

    config: BertConfig
    tasks: tuple[str, ...]
    max_length: int
    max_batch_tokens: int
    pooling: Pooling
    prompts: Mapping[str, str]
    num_bytes: int


class ServedModel:
    """One served model.

    Attributes:
        description: known once the model has been loaded for the first time.
        model: the model while it is in memory.
    """

    def __init__(self, name: str, path: str) -> None:
        self.name, self.path = name, path
        self.description: Description = None  # type: ignore[assignment]
        self.model: Model | None = None
        self.users = 0  # requests that are using it
        self.is_leaving = False  # being unloaded; new requests wait until it is loaded again
        self.last_used = 0.0


class Models:
    """All served models; those in memory stay within a budget.

    Args:
        paths: {name: path}; the first is the default.
        load: reads the model at a path.
        batcher: runs `load` in its thread.
        budget: maximum size of all weights in memory, in bytes; None for no limit.
        pooling: overrides the models' own pooling.
        metrics: counts the models in memory.
    """

    def __init__(
        self,
        paths: Mapping[str, str],
        load: Callable[[str], Model],
        batcher: Batcher,
        *,
        budget: int | None,
        pooling: Pooling | None,
        metrics: Metrics,
    ) -> None:
        self._served = {name: ServedModel(name, path) for name, path in paths.items()}
        self._load, self._batcher, self._budget, self._pooling = load, batcher, budget, pooling
        self._metrics = metrics
        self._loading = asyncio.Lock()
        self._unused = asyncio.Event()

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._served.values())

    def find(self, name: str | None) -> ServedModel:
        """The model of that name, or the default; raises NotFound."""
        if name is None:
            return next(iter(self))
        if name not in self._served:
            raise NotFound(f"there is no model {name[:100]!r}: the models are {', '.join(self._served)}")
        return self._served[name]

    async def start(self) -> None:
        """Loads every model once, so that errors appear at startup. The default model is loaded last and stays loaded.

        Raises:
            UserError: a model cannot be loaded, has no vocabulary, or is larger than the budget.
        """
        for served in reversed(list(self)):
            async with self._loading:
                await self._bring(served)
            if self._budget is not None and served.description.num_bytes > self._budget:
                raise UserError(
                    f"--model_path {served.path} takes {served.description.num_bytes >> 20} MB, more than "
                    f"--memory_budget_mb {self._budget >> 20}: raise the budget."
                )

    @contextlib.asynccontextmanager
    async def use(self, served: ServedModel) -> AsyncIterator[Model]:
        """Context manager that keeps the model in memory while it is used.

        Raises:
            CannotCompute: it is not in memory and can no longer be loaded.
        """
        if served.model is None or served.is_leaving:
            async with self._loading:
                if served.model is None:
                    try:
                        await self._bring(served)
                    except (UserError, OSError) as error:
                        logger.error("a model cannot be loaded", extra={"fields": {"model": served.name,
                                                                                   "reason": str(error)}})  # fmt: skip
                        raise CannotCompute(f"the model {served.name} cannot be loaded") from None
        served.users += 1
        served.last_used = time.monotonic()
        try:
            assert served.model is not None
            yield served.model
        finally:
            served.users -= 1
            if not served.users:
                self._unused.set()

    async def _bring(self, served: ServedModel) -> None:
        if served.description:
            await self._make_room(served.description.num_bytes)
        started = time.perf_counter()
        served.model = await self._batcher.call(lambda: self._read(served))
        served.last_used = time.monotonic()
        await self._make_room(0, keep=served)
        fields = {"model": served.name, "seconds": round(time.perf_counter() - started, 2)}
        logger.info("loaded a model", extra={"fields": fields})

    def _read(self, served: ServedModel) -> Model:
        model = self._load(served.path)
        served.description = describe(model, self._pooling)
        # The first batch is slow, so run one before the first request.
        list(model.runner.run([model.encoder.example([])], ("sequence_output",)))
        return model

    async def _make_room(self, num_bytes: int, keep: ServedModel | None = None) -> None:
        """Unloads the least recently used models until this many bytes fit into the budget."""
        while self._budget is not None and self._resident_bytes + num_bytes > self._budget:
            resident = [served for served in self if served.model is not None and served is not keep]
            if not resident:
                break
            leaving = min(resident, key=lambda served: served.last_used)
            leaving.is_leaving = True
            try:
                while leaving.users:
                    self._unused.clear()
                    await self._unused.wait()
                leaving.model = None
            finally:
                leaving.is_leaving = False
            await self._batcher.call(gc.collect)
            logger.info("dropped a model", extra={"fields": {"model": leaving.name}})
        self._metrics.loaded_models.set(sum(served.model is not None for served in self))

    @property
    def _resident_bytes(self) -> int:
        return sum(served.description.num_bytes for served in self if served.model is not None)


def describe(model: Model, pooling: Pooling | None) -> Description:
    """Describes a model; pooling and prompts come from the sentence-transformers files in its directory."""
    own = model.pooling.kind if model.pooling else "mean"
    prompts = _settings(model.path, PROMPTS_FILE).get("prompts")
    return Description(
        config=model.config,
        tasks=tuple(model.tasks),
        max_length=model.encoder.max_length,
        max_batch_tokens=model.runner.most_tokens,
        pooling=pooling or cast(Pooling, {"cls": "first"}.get(own, own)),
        prompts={str(k): str(v) for k, v in prompts.items()} if isinstance(prompts, dict) else {},
        num_bytes=sum(parameter.numel() * 4 for parameter in model.runner.model.parameters()),
    )


def _settings(path: Path, name: str) -> dict[str, Any]:
    file = path / name
    return read_settings(file) if file.is_file() else {}
