"""The change to vLLM's sampler: its fault is still there, and the change still mends it."""

from __future__ import annotations

from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

import pytest
import torch

from sage.common.components.sage_vllm.backend.scoring.logprobs_by_request import (
    keep_logprobs_apart,
)

CHOSEN, LIKELIEST = {0: [5, 7, 9, 1], 2: [3]}, 2


def copy_of_sampler() -> ModuleType:
    """Return vLLM's module as it was before any change."""
    spec = find_spec("vllm.v1.sample.sampler")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sample(sampler: type[Any], logits: torch.Tensor, *, most: int | None) -> Any:
    """Sample a batch of four: two requests name tokens, the others ask for the likeliest."""
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.sample.metadata import SamplingMetadata

    none = torch.empty(0)
    metadata = SamplingMetadata(
        temperature=None,
        all_greedy=True,
        all_random=False,
        top_p=None,
        top_k=None,
        generators={},
        max_num_logprobs=most,
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=none,
        presence_penalties=none,
        repetition_penalties=none,
        output_token_ids=[[] for _ in logits],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(),
        logprob_token_ids=CHOSEN,
    )
    return sampler()(logits.clone(), metadata).logprobs_tensors


@pytest.mark.parametrize("mended", [False, True])
def test_one_request_with_chosen_tokens_spoils_the_likeliest_of_others(mended: bool) -> None:  # noqa: FBT001
    sampler = copy_of_sampler().Sampler
    if mended:
        keep_logprobs_apart(sampler)
        keep_logprobs_apart(sampler)
    logits = torch.randn(4, 32, generator=torch.Generator().manual_seed(3))
    logprobs = logits.log_softmax(-1)
    tensors = sample(sampler, logits, most=LIKELIEST)
    tokens = tensors.logprob_token_ids.tolist()
    assert tokens[0][1:5] == CHOSEN[0]
    assert tokens[2][1:2] == CHOSEN[2]
    for row in (1, 3):
        likeliest = logprobs[row].topk(LIKELIEST)
        right = tokens[row][1 : 1 + LIKELIEST] == likeliest.indices.tolist()
        assert right == mended
        if mended:
            found = tensors.logprobs[row, 1 : 1 + LIKELIEST]
            assert torch.allclose(found, likeliest.values)
    for row in range(4):
        best = logprobs[row].argmax().item()
        assert tokens[row][0] == best
        assert torch.isclose(tensors.logprobs[row, 0], logprobs[row, best])


def test_a_batch_that_needs_no_change_is_left_alone() -> None:
    sampler = copy_of_sampler().Sampler
    keep_logprobs_apart(sampler)
    logits = torch.randn(4, 32, generator=torch.Generator().manual_seed(4))
    alone = sample(sampler, logits, most=None)
    assert alone.logprob_token_ids[0, 1:5].tolist() == CHOSEN[0]
    assert torch.isinf(alone.logprobs[1, 1:]).all()  # it asked for none
