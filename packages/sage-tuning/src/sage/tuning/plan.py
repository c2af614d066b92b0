"""Plan: a request, checked in full, with all that follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sage.common.components.sage_vllm.fine_tuning import FineTuneRequest, FineTuneRequestError
from sage.tuning.data.base_tokenizer import BaseTokenizer
from sage.tuning.data.dataset import Dataset, read_dataset
from sage.tuning.data.rendering import pieces
from sage.tuning.estimate import Estimate, estimate, refuse_what_does_not_fit
from sage.tuning.settings import Settings, read_settings

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
        }


def make_plan(request: FineTuneRequest) -> Plan:
    """Check all of a request and return what follows from it; raises FineTuneRequestError."""
    settings = read_settings(request)
    _refuse_what_cannot_be(request)
    tokenizer = BaseTokenizer(request.base_model, request.base_model_path)
    data = read_dataset(request, settings, tokenizer)
    if data.method == "dpo":
        _refuse_what_preferences_lack(request)
    needs = estimate(request, settings, data)
    refuse_what_does_not_fit(request, needs)
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
