"""Plan: a request, checked in full, with all that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sage.common.components.sage_vllm.fine_tuning import FineTuneRequest, FineTuneRequestError
from sage.tuning.data.base_tokenizer import BaseTokenizer
from sage.tuning.data.dataset import Dataset, read_dataset
from sage.tuning.data.rendering import pieces
from sage.tuning.estimate import Estimate, estimate, refuse_for_want_of_disk
from sage.tuning.settings import Settings, read_settings
from sage.tuning.stop_token import row_is_empty

_SHOWN = 2


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request with all that follows from it."""

    request: FineTuneRequest
    settings: Settings
    tokenizer: BaseTokenizer
    data: Dataset
    needs: Estimate

    def report(self) -> dict[str, Any]:
        """Return what will be trained on, how, and what it needs, as plain data.

        ``mask`` shows the first examples as pieces of text, each with whether it is trained.
        """
        shown = self.data.training[:_SHOWN]
        return {
            **self.data.report,
            "method": self.data.method,
            "context": self.tokenizer.context,
            "mask": [[list(piece) for piece in pieces(self.tokenizer, row)] for row in shown],
            "settings": {
                **self.settings.to_json(),
                "learning_rate": self.settings.rate(self.request.strategy, self.data.method),
            },
            "needs": self.needs.to_json(),
            "warnings": self.warnings(),
        }

    def warnings(self) -> list[str]:
        """Return what will be trained in vain."""
        request = self.request
        row = self.data.training[0]
        stop = row.ids[row.spans[-1][1] - 1]
        if request.strategy == "full" or stop not in self.tokenizer.stop_ids:
            return []
        matrix = row_is_empty(request.base_model, request.base_model_path, stop)
        if matrix is None:
            return []
        return [
            f"answers end with {self.tokenizer.text_of([stop])!r}, and {request.base_model!r} was "
            f"never trained to say it: its row of {matrix} is next to zero, which no adapter "
            "changes, so answers will not end; the strategy full trains it"
        ]


def make_plan(request: FineTuneRequest) -> Plan:
    """Check all of a request but its memory, and return what follows from it.

    Raises FineTuneRequestError.
    """
    settings = read_settings(request)
    _refuse_what_cannot_be(request)
    tokenizer = BaseTokenizer(request.base_model, request.base_model_path)
    data = read_dataset(request, settings, tokenizer)
    if data.method == "dpo":
        _refuse_what_preferences_lack(request)
    needs = estimate(request, settings, data)
    refuse_for_want_of_disk(request, needs)
    return Plan(request=request, settings=settings, tokenizer=tokenizer, data=data, needs=needs)


def _refuse_what_cannot_be(request: FineTuneRequest) -> None:
    if (request.base_model_path / "adapter_config.json").is_file():
        reason = f"base_model {request.base_model!r} is an adapter, not a model"
        hint = "Name the model that the adapter is for."
        raise FineTuneRequestError(request.base_model, reason, "base_model", hint=hint)
    if request.strategy == "qlora":
        reason = (
            "strategy 'qlora' is not there: vLLM would serve its adapter on another base than the "
            "one of 4 bits that it was trained on"
        )
        hint = "Use lora: it trains on the model as it is served."
        raise FineTuneRequestError(request.base_model, reason, "strategy", hint=hint)


def _refuse_what_preferences_lack(request: FineTuneRequest) -> None:
    for field, given in (
        ("strategy", request.strategy == "full"),
        ("replay_path", request.replay_path),
    ):
        if given:
            reason = f"preferences are learned without {field} {getattr(request, field)!s:.80}"
            hint = "Use the strategy lora and no replay: the base model itself is the reference."
            raise FineTuneRequestError(request.base_model, reason, field, hint=hint)
