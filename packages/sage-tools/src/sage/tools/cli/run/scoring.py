"""Scores and classes of texts as JSON Lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.service import VLLMService
from sage.tools.cli.errors import Interrupted
from sage.tools.cli.run.loading import ShownService
from sage.tools.cli.terminal.output import write_json

_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Prints a line of JSON for each text as it is done, or the whole result as JSON.

    With a ``query`` it is a score, else a class: of the model's own, or of ``labels``.
    """

    texts: Sequence[str]
    query: str | None
    labels: Sequence[str] | None
    as_json: bool
    quiet: bool

    def run(self, config: VLLMServiceConfig) -> None:
        """Score or classify the texts, without those that are blank."""
        texts = [text.rstrip("\r") for text in self.texts if text.strip()]
        try:
            with ShownService(config, quiet=self.quiet) as service:
                if self.as_json:
                    write_json(self._result(service, texts))
                    return
                for first in range(0, len(texts), _AT_ONCE):
                    some = texts[first : first + _AT_ONCE]
                    for text, record in zip(some, self._records(service, some), strict=True):
                        print(json.dumps({"text": text, **record}, ensure_ascii=False))
                    sys.stdout.flush()
        except KeyboardInterrupt:
            raise Interrupted("The lines that were printed are complete.") from None

    def _result(self, service: VLLMService, texts: Sequence[str]) -> Mapping[str, Any]:
        if self.query is not None:
            return service.score(self.query, texts)
        return service.classify(texts, labels=self.labels)

    def _records(self, service: VLLMService, texts: Sequence[str]) -> list[dict[str, Any]]:
        result = self._result(service, texts)
        if self.query is not None:
            return [{"score": score} for score in result["scores"]]
        return [
            {"label": label, "score": score}
            for label, score in zip(result["labels"], result["scores"], strict=True)
        ]
