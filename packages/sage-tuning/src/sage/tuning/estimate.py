"""What a fine-tuning will need: trained parameters, memory, disk and time, before it begins."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.fine_tuning import FineTuneRequest, FineTuneRequestError
from sage.common.components.sage_vllm.planning.device import available_memory
from sage.common.components.sage_vllm.planning.model_files import (
    read_config,
    read_tensors,
    safetensors_files,
)
from sage.common.model_registry.vllm_registry import format_bytes
from sage.tuning.data.dataset import Dataset
from sage.tuning.settings import Settings

_PROGRAM = 700 << 20
"""Bytes that Python has taken once torch, transformers, TRL and PEFT are imported."""
_FLOPS_PER_SECOND = 1.2e11
_SECONDS_PER_TOKEN = 2e-5
"""Measured on two cores: 14,500 tokens a second of a model of 0.7 M, 735 of one of 26 M."""
_START_SECONDS = 25.0
"""To import what trains, and to load vLLM for the verification."""
_PER_ACTIVATION, _PER_INNER = 68, 24
"""Bytes that one layer keeps for each number of a token's hidden state, and of what is within its
MLP, for the way back: with an adapter of 28 M parameters the peak was 1.74 GB."""
_USED = 0.8
"""The share of what is free that the rows which are trained at once are chosen to fit in."""
_EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "wpe", "word_embeddings")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What it will need, in bytes and seconds; ``micro_batch_size`` rows are trained at once."""

    parameters: int
    trained_parameters: int
    steps: int
    micro_batch_size: int
    memory_bytes: int
    free_bytes: int
    disk_bytes: int
    free_disk_bytes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return it as plain data."""
        return asdict(self)


def estimate(request: FineTuneRequest, settings: Settings, data: Dataset) -> Estimate:
    """Estimate what a request needs; raises BrokenModelError for a base that cannot be read."""
    tensors = [
        tensor
        for file in safetensors_files(request.base_model, request.base_model_path)
        for tensor in read_tensors(request.base_model, file)
    ]
    parameters = sum(tensor.elements for tensor in tensors)
    adapter = sum(
        settings.rank * sum(tensor.shape)
        for tensor in tensors
        if len(tensor.shape) == 2 and not any(name in tensor.name for name in _EMBEDDINGS)
    )
    trained = parameters if request.strategy == "full" else adapter
    lengths = data.training.lengths + data.replay.lengths
    longest = max(lengths + data.rejected.lengths)
    sides = 2 if data.method == "dpo" else 1
    row = sides * longest * _bytes_per_token(request, settings)
    fixed, free = _PROGRAM + 4 * parameters + 16 * trained, available_memory()
    fits = max(1, int(_USED * free - fixed) // row)
    micro = _micro_batch(settings.batch_size, settings.micro_batch_size or fits)
    own = len(data.training)
    steps = settings.steps(own + replayed_rows_of(request, own, len(data.replay)))
    tokens = steps * settings.batch_size * sum(lengths) / len(lengths) * sides
    kept = 4 * trained * 3  # the weights and both of Adam's averages, in a checkpoint
    return Estimate(
        parameters=parameters,
        trained_parameters=trained,
        steps=steps,
        micro_batch_size=micro,
        memory_bytes=fixed + micro * row,
        free_bytes=free,
        disk_bytes=3 * kept + 4 * sum(lengths) + (16 << 20),
        free_disk_bytes=shutil.disk_usage(_existing(request.output_dir)).free,
        seconds=_START_SECONDS + tokens * (_SECONDS_PER_TOKEN + 6 * parameters / _FLOPS_PER_SECOND),
    )


def _micro_batch(size: int, most: int) -> int:
    """Return how many rows are trained at once: the largest part of a batch that divides it."""
    return next(count for count in range(min(most, size), 0, -1) if size % count == 0)


def replayed_rows_of(request: FineTuneRequest, own: int, replay: int) -> int:
    """Return how many rows an epoch has of ``replay`` others, beside its ``own``."""
    share = request.replay_share
    return min(replay, round(own * share / (1 - share)))


def refuse_for_want_of_memory(request: FineTuneRequest, needs: Estimate) -> None:
    """Raise FineTuneRequestError where the memory that is free now will not do."""
    if needs.memory_bytes > needs.free_bytes:
        reason = (
            f"it needs about {format_bytes(needs.memory_bytes)} of memory, and "
            f"{format_bytes(needs.free_bytes)} are free"
        )
        hint = (
            f"Set the hyperparameter micro_batch_size below {needs.micro_batch_size}, max_length, "
            "or gradient_checkpointing=true, or end what else uses memory; a service makes room "
            'with while_training="pause".'
        )
        raise FineTuneRequestError(request.base_model, reason, "hyperparameters", hint=hint)


def refuse_for_want_of_disk(request: FineTuneRequest, needs: Estimate) -> None:
    """Raise FineTuneRequestError where the disk that is free will not do."""
    if needs.disk_bytes > needs.free_disk_bytes:
        reason = (
            f"output_dir {str(request.output_dir)!r} needs about "
            f"{format_bytes(needs.disk_bytes)} of disk, and {format_bytes(needs.free_disk_bytes)} "
            "are free"
        )
        hint = "Free some, or name a folder on another disk."
        raise FineTuneRequestError(request.base_model, reason, "output_dir", hint=hint)


def _bytes_per_token(request: FineTuneRequest, settings: Settings) -> int:
    config = read_config(request.base_model, request.base_model_path)
    config = {**config, **(config.get("text_config") or {})}
    hidden, layers = int(config.get("hidden_size", 1024)), int(config.get("num_hidden_layers", 24))
    inner, vocabulary = (
        int(config.get("intermediate_size", 4 * hidden)),
        config.get("vocab_size", 0),
    )
    kept = 2 if settings.gradient_checkpointing else _PER_ACTIVATION
    return layers * (hidden * kept + _PER_INNER * inner) + 3 * 4 * int(vocabulary)


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
