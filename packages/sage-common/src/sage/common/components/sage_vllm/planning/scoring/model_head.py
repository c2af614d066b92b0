"""Whether a model has the head that its role needs."""

from __future__ import annotations

from typing import Any

from sage.common.components.sage_vllm.engine_contract import EngineSpec, Role
from sage.common.components.sage_vllm.errors import WrongModelTypeError
from sage.common.components.sage_vllm.planning.model_files import read_config
from sage.common.model_registry.model_traits import type_of_class

_HEADS = ("classification", "reward")  # over a whole text
_OF_PARTS = {
    "ForTokenClassification": "labels each token",
    "ForProcessRewardModel": "rates each step of an answer",
}
_NATURES = {
    "text": "is a text model",
    "embedding": "is an embedding model",
    "classification": "classifies",
    "reward": "is a reward model",
}


def check_head(spec: EngineSpec) -> None:
    """Raise WrongModelTypeError where a model's class has not the head that its role needs.

    The class is that of ``config.json``, or what ``hf_overrides`` puts in its place. Without this
    check vLLM puts a head of random numbers on some models, and fails on others without a word of
    why. Raises BrokenModelError.
    """
    config = _config(spec)
    kind, name = type_of_class(config), _class_of(config)
    of_parts = next((says for end, says in _OF_PARTS.items() if name.endswith(end)), None)
    has_head = kind in _HEADS and of_parts is None
    if has_head == (spec.role is Role.SCORE):
        return
    if spec.role is not Role.SCORE:
        if of_parts is not None:
            return
        hint = "it scores and classifies: load it with the role 'score', or by"
        raise _wrong(spec, _NATURES[kind], name, hint=hint, option=Role.SCORE.model_option)
    if of_parts is not None:
        raise _wrong(spec, of_parts, name, hint="use a model whose head is over whole texts")
    hint = "use a model with a head, whose class ends in ForSequenceClassification"
    if kind == "text":
        hint += "; classify(texts, labels=[...]) asks a text model"
    raise _wrong(spec, _NATURES[kind], name, hint=hint)


def has_own_head(spec: EngineSpec) -> bool:
    """Whether the head is among a model's weights: vLLM makes some of a text model's own."""
    return "classifier_from_token" not in _config(spec)


def model_option(spec: EngineSpec) -> str:
    """Return the option that named the model of a spec."""
    named = spec.option.removesuffix(".engine")
    return f"{named}.model_id" if named != spec.option else spec.role.model_option


def _wrong(
    spec: EngineSpec, nature: str, name: str, *, hint: str, option: str | None = None
) -> WrongModelTypeError:
    return WrongModelTypeError(
        model_option(spec),
        spec.model_id,
        f"{nature} ({name or 'its config.json names no class'})",
        spec.role.value,
        hint=hint,
        option=option,
        value=None if option is None else spec.model_id,
    )


def _config(spec: EngineSpec) -> dict[str, Any]:
    overrides = spec.arguments.get("hf_overrides")
    changed = overrides if isinstance(overrides, dict) else {}
    return {**read_config(spec.model_id, spec.path), **changed}


def _class_of(config: dict[str, Any]) -> str:
    architectures = config.get("architectures")
    return str(architectures[0]) if isinstance(architectures, list) and architectures else ""
