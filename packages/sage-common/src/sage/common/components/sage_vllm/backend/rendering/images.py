"""Images: makes of the pictures in conversations what vLLM takes."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from sage.common.components.sage_vllm.backend.vllm_types import LLMEngine, VLLMClasses
from sage.common.components.sage_vllm.engine_contract import Message
from sage.common.components.sage_vllm.errors import InvalidInputError
from sage.common.components.sage_vllm.requests.media.content_parts import (
    has_images,
    no_images,
    replace_images,
)


class Images:
    """Decodes pictures, on their callers' threads.

    ``modalities`` are those of EngineInfo. ``lock`` is held while a conversation with pictures is
    rendered: vLLM's processors, and their cache by content, are for one thread at a time.
    """

    def __init__(self, model_id: str, engine: LLMEngine, vllm: VLLMClasses) -> None:
        self.lock = threading.Lock()
        self._model_id = model_id
        processor, config = engine.renderer.mm_processor, engine.model_config.multimodal_config
        limits = {} if processor is None else processor.info.allowed_mm_limits
        self.modalities = tuple(name for name in ("image",) if limits.get(name))
        options = {} if config is None else (config.media_io_kwargs or {}).get("image", {})
        self._io = vllm.ImageMediaIO(**{"image_mode": "RGB", **options})

    def decoded(self, messages: Sequence[Message]) -> Sequence[Message] | None:
        """Return a conversation with its pictures decoded; None if it has none.

        Raises InvalidRequestError where the model takes none, and InvalidInputError for a picture
        that cannot be read.
        """
        if not has_images(messages):
            return None
        if "image" not in self.modalities:
            raise no_images(self._model_id, "the prompt")
        return replace_images(messages, self._decode)

    def _decode(self, part: Mapping[str, Any]) -> Mapping[str, Any]:
        source = part["image"]
        image = source.read()
        if isinstance(image, bytes):
            try:
                image = self._io.load_bytes(image)
            except Exception as error:
                problem = f"{source} cannot be read: {error}"
                raise InvalidInputError(str(source), problem) from error
        return {"type": "image_pil", "image_pil": image}
