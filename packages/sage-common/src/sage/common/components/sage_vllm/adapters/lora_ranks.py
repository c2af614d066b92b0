"""The ranks of LoRA adapters that an engine can be made for."""

from __future__ import annotations

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM takes for ``max_lora_rank``; a test compares."""


def engine_options_for(rank: int) -> dict[str, object]:
    """Return the options by which an engine takes adapters up to a rank.

    Raises ValueError for a rank that no engine takes.
    """
    fitting = [each for each in RANKS if each >= rank]
    if not fitting:
        raise ValueError(f"rank {rank} is above {RANKS[-1]}, the largest that vLLM takes")
    return {"enable_lora": True, "max_lora_rank": fitting[0]}
