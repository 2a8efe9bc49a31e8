"""OpenAI's routes for embeddings and models."""

from __future__ import annotations

import base64
import time
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Response
from pydantic import BaseModel, StrictInt

from serving.log import current_trace
from serving.responses import JsonResponse
from serving.routes.common import AnyService, TokenIds
from serving.routes.embeddings_inference import as_list, checked_dimensions
from serving.service import normalized

router = APIRouter(prefix="/v1", tags=["OpenAI"])
_STARTED = int(time.time())


class EmbeddingsRequest(BaseModel):
    """Texts, or their token ids, to embed."""

    input: str | TokenIds | list[str | TokenIds]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: StrictInt | None = None
    user: str | None = None


@router.post("/embeddings")
async def embeddings(body: EmbeddingsRequest, service: AnyService) -> Response:
    """One vector of length 1 for each text."""
    served = service.models.find(body.model)
    dimensions = checked_dimensions(served, body.dimensions)
    vectors = await service.embed(served, as_list(body.input), keep="start" if service.config.auto_truncate else None)
    tokens = current_trace.get().tokens

    def written(vector: np.ndarray) -> Any:
        if body.encoding_format == "float":
            return vector
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()

    return JsonResponse(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": written(vector)}
                for index, vector in enumerate(normalized(vectors, dimensions))
            ],
            "model": served.name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


@router.get("/models")
async def models(service: AnyService) -> dict[str, Any]:
    """All models, the default first."""
    return {"object": "list", "data": [_shown(served.name) for served in service.models]}


@router.get("/models/{name}")
async def model(name: str, service: AnyService) -> dict[str, Any]:
    """One model."""
    return _shown(service.models.find(name).name)


def _shown(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _STARTED, "owned_by": "local"}
