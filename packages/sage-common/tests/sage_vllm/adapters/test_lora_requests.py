"""LoraRequests: ranks that engines can have, names that no two adapters share, other bases."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, get_args

import pytest

from sage.common.components.sage_vllm.adapters.lora_requests import LoraRequests, is_base
from sage.common.components.sage_vllm.engine_contract import LoraAdapter
from sage.common.components.sage_vllm.errors import InvalidRequestError

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def adapter(rank: int = 4, commit: str = "c1", **facts: Any) -> LoraAdapter:
    return LoraAdapter(
        name="my/adapter", commit=commit, path=Path("/models") / commit, rank=rank, **facts
    )


def requests(max_rank: int | None = 16) -> LoraRequests:
    return LoraRequests("org/base", lambda *made: made, max_rank=max_rank, ranks=RANKS)


def test_the_ranks_are_vllms() -> None:
    from vllm.config.lora import MaxLoRARanks

    assert get_args(MaxLoRARanks) == RANKS


@pytest.mark.parametrize(("rank", "named"), [(17, 32), (24, 32), (48, 64), (257, 320), (512, 512)])
def test_the_hint_names_a_rank_that_vllm_takes(rank: int, named: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"has rank {rank} and this engine.*16") as caught:
        requests().of(adapter(rank))
    assert (caught.value.option, caught.value.value) == ("engine.max_lora_rank", named)


def test_a_rank_that_no_engine_can_have_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="rank 513 and vLLM takes ranks up to 512") as no:
        requests().of(adapter(513))
    assert (no.value.option, no.value.hint) == (None, "train it with a rank of 512 or less")


def test_an_engine_without_adapters_says_how_to_have_them() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        requests(None).of(adapter())
    assert (caught.value.option, caught.value.value) == ("engine.enable_lora", True)


def test_each_commit_is_an_adapter_of_its_own() -> None:
    made = requests()
    first, second = made.of(adapter()), made.of(adapter(commit="c2"))
    assert first == ("my/adapter@c1", 1, "/models/c1")
    assert second == ("my/adapter@c2", 2, "/models/c2")
    assert made.of(adapter()) is first


def test_an_adapter_of_another_base_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    made = requests()
    with caplog.at_level(logging.WARNING):
        made.of(adapter(base="org/base"))
        assert caplog.text == ""
        for _ in range(2):
            made.of(adapter(commit="c2", base="org/other"))
    (record,) = caplog.records
    assert "'my/adapter' was trained on 'org/other', and 'org/base' serves it" in record.message


@pytest.mark.parametrize(
    ("base", "same"),
    [
        ("Org/Base", True),
        ("mirror/base", True),
        ("base", True),
        ("/home/me/models/base", True),
        ("/home/me/.sage/models/vllm/org/base/3f2a", True),
        ("org/base-instruct", False),
        ("/home/me/.sage/models/vllm/org/other/3f2a", False),
    ],
)
def test_bases_are_compared_by_their_names(base: str, *, same: bool) -> None:
    assert is_base(base, "org/base") is same
