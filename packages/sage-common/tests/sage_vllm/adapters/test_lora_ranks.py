"""The ranks that vLLM takes are those that it says."""

from __future__ import annotations

from typing import get_args

import pytest

from sage.common.components.sage_vllm.adapters.lora_ranks import RANKS, engine_options_for


def test_the_ranks_are_those_of_vllm() -> None:
    from vllm.config.lora import MaxLoRARanks

    assert get_args(MaxLoRARanks) == RANKS


def test_a_rank_is_rounded_up() -> None:
    assert engine_options_for(24) == {"enable_lora": True, "max_lora_rank": 32}
    assert engine_options_for(512)["max_lora_rank"] == 512
    with pytest.raises(ValueError, match="rank 513 is above 512"):
        engine_options_for(513)
