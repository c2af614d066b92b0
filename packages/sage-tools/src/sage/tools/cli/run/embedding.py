"""Vectors of texts as JSON Lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.tools.cli.errors import Interrupted
from sage.tools.cli.run.loading import ShownService
from sage.tools.cli.terminal.output import write_json

_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """Prints a line of JSON for each text as its vector is there, or the whole result as JSON."""

    texts: Sequence[str]
    as_json: bool
    quiet: bool

    def run(self, config: VLLMServiceConfig) -> None:
        """Embed the texts, without those that are blank."""
        texts = [text.rstrip("\r") for text in self.texts if text.strip()]
        try:
            with ShownService(config, quiet=self.quiet) as service:
                if self.as_json:
                    write_json(service.embed(texts))
                    return
                for first in range(0, len(texts), _AT_ONCE):
                    some = texts[first : first + _AT_ONCE]
                    vectors = service.embed(some)["vectors"]
                    for text, vector in zip(some, vectors, strict=True):
                        print(json.dumps({"text": text, "embedding": vector}, ensure_ascii=False))
                    sys.stdout.flush()
        except KeyboardInterrupt:
            raise Interrupted("The vectors that were printed are complete.") from None
