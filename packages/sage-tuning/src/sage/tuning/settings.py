"""Settings: the hyperparameters of a fine-tuning, checked, with their defaults."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sage.common.components.sage_vllm.adapters.lora_ranks import RANKS
from sage.common.components.sage_vllm.fine_tuning import FineTuneRequest, FineTuneRequestError
from sage.common.core.errors import nearest

RATES = {"lora": 2e-4, "full": 1e-5}
_DPO_RATE = 5e-6
_NOT_SERVED = {
    "use_dora": "DoRA",
    "use_rslora": "rank-stabilised LoRA with its own scale",
    "lora_bias": "biases of adapters",
    "bias": "biases of adapters",
    "modules_to_save": "whole modules in an adapter",
    "trainable_token_indices": "trained tokens in an adapter",
    "init_lora_weights": "adapters whose base was changed (PiSSA, OLoRA, CorDA, LoftQ)",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "activated LoRA",
}
"""Options of PEFT whose adapters vLLM refuses, or loads and ignores."""
_CHOICES = {
    "overlong": ("refuse", "drop", "truncate"),
    "train_on": ("assistant", "last", "all"),
    "schedule": ("cosine", "linear", "constant"),
}
_WHOLE = {
    "max_steps", "batch_size", "micro_batch_size", "rank", "max_length", "eval_every",
    "early_stopping", "checkpoint_every", "threads",
}  # fmt: skip
_AT_LEAST_0 = {"dropout", "warmup_ratio", "weight_decay", "max_grad_norm"}
_ABOVE_0 = {"epochs", "learning_rate", "alpha", "beta"}
_BELOW_1 = {"dropout", "warmup_ratio"}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train. What is None is chosen when the data are known.

    - ``epochs``, or ``max_steps`` in its place.
    - ``learning_rate``: None is 2e-4 for adapters, 1e-5 for all weights, 5e-6 for preferences.
    - ``batch_size``: examples for each step; ``micro_batch_size`` of them at once, None as many
      as fit in memory.
    - ``rank``, ``alpha`` (None is twice the rank), ``dropout``, ``target_modules`` of adapters.
    - ``schedule`` of the rate after ``warmup_ratio`` of the steps: cosine, linear or constant.
    - ``max_length`` in tokens, None the model's context; ``overlong`` examples are refused,
      dropped or truncated.
    - ``train_on``: every answer of the assistant, the last one, or all tokens.
    - ``eval_every`` steps, None ten times in all; ``early_stopping``: the evaluations without
      progress after which it ends.
    - ``checkpoint_every`` steps, None twenty times in all, in a fiftieth of the time at most.
    - ``beta``: how far preferences may lead from the base model.
    - ``threads`` to train with, None as many as there are cores.
    """

    epochs: float = 3
    max_steps: int | None = None
    learning_rate: float | None = None
    batch_size: int = 16
    micro_batch_size: int | None = None
    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    schedule: str = "cosine"
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    max_length: int | None = None
    overlong: str = "refuse"
    train_on: str = "assistant"
    seed: int = 0
    eval_every: int | None = None
    early_stopping: int | None = None
    checkpoint_every: int | None = None
    gradient_checkpointing: bool = False
    beta: float = 0.1
    threads: int | None = None

    def rate(self, strategy: str, method: str) -> float:
        """Return the learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return _DPO_RATE if method == "dpo" else RATES[strategy]

    def length_limit(self, context: int) -> int:
        """Return how many tokens a row has at most."""
        return context if self.max_length is None else min(self.max_length, context)

    @staticmethod
    def method_of(shape: str) -> str:
        """Return the method that examples of a shape are for."""
        return "dpo" if shape == "preferences" else "sft"

    def steps(self, rows: int) -> int:
        """Return the number of steps for so many rows in each epoch."""
        return self.max_steps or max(1, math.ceil(self.epochs * rows / self.batch_size))

    def to_json(self) -> dict[str, Any]:
        """Return them as plain data."""
        return asdict(self)


def read_settings(request: FineTuneRequest) -> Settings:
    """Return a request's hyperparameters as Settings; raises FineTuneRequestError."""
    given = {
        name: value
        for name, value in request.hyperparameters.items()
        if not (value is None or value == "auto")
    }
    known = [each.name for each in fields(Settings)]
    for name, value in given.items():
        if name in _NOT_SERVED:
            raise _refusal(
                request,
                f"the hyperparameter {name}={value!r} asks for {_NOT_SERVED[name]}, and vLLM "
                f"would not serve that",
                "Leave it out: what is trained has to be served.",
            )
        if name not in known:
            raise _refusal(request, f"unknown hyperparameter {name!r}; {nearest(name, known)}")
        if problem := _problem_with(name, value):
            raise _refusal(request, f"the hyperparameter {name} must be {problem}, not {value!r}")
    if isinstance(given.get("target_modules"), list):
        given["target_modules"] = tuple(given["target_modules"])
    return Settings(**given)


def _refusal(
    request: FineTuneRequest, reason: str, hint: str | None = None
) -> FineTuneRequestError:
    hint = hint or "The page on fine-tuning lists the hyperparameters with their defaults."
    return FineTuneRequestError(request.base_model, reason, "hyperparameters", hint=hint)


def _problem_with(name: str, value: Any) -> str | None:
    """Return what a hyperparameter must be, if it is not."""
    if name in _CHOICES:
        return None if value in _CHOICES[name] else f"one of {', '.join(_CHOICES[name])}"
    if name == "gradient_checkpointing":
        return None if isinstance(value, bool) else "True or False"
    if name == "target_modules":
        is_list = isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)
        if value == "all-linear" or (is_list and value):
            return None
        return 'all-linear, or a list of modules such as ["q_proj", "v_proj"]'
    if name == "seed" or name in _WHOLE:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        if not is_whole or value < (0 if name == "seed" else 1):
            return f"a whole number, {0 if name == 'seed' else 1} or more"
        if name == "rank" and value > RANKS[-1]:
            return f"at most {RANKS[-1]}, which is vLLM's limit"
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        return "a number"
    if name in _ABOVE_0 and value <= 0:
        return "a number above 0"
    if name in _AT_LEAST_0 and value < 0:
        return "a number, 0 or more"
    if name in _BELOW_1 and value >= 1:
        return "a number below 1"
    return None


def settings_from_json(plain: Mapping[str, Any]) -> Settings:
    """Return the settings that ``Settings.to_json`` made this of."""
    modules = plain["target_modules"]
    return Settings(
        **{**plain, "target_modules": modules if isinstance(modules, str) else tuple(modules)}
    )
