"""Each request of a batch gets the log-probabilities that it asked for.

Where one request asks for those of chosen tokens, vLLM's sampler (``v1.sample.sampler``) returns
chosen tokens for the whole batch: what others asked for as the likeliest tokens would be filled up
with the token 0 and a log-probability of minus infinity.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any


def keep_logprobs_apart(sampler: type[Any]) -> None:
    """Mend vLLM's class Sampler, once: the likeliest tokens become chosen ones too.

    That is what the sampler would have gathered for them, in the same order.
    """
    original = sampler.forward
    if original.__module__ == __name__:
        return

    def forward(self: Any, logits: Any, sampling_metadata: Any, *args: Any, **kwargs: Any) -> Any:
        chosen, most = sampling_metadata.logprob_token_ids, sampling_metadata.max_num_logprobs
        if chosen and most is not None and most > 0 and len(chosen) < len(logits):
            likeliest = logits.topk(most, dim=-1).indices.tolist()
            rows = {row: tokens for row, tokens in enumerate(likeliest) if row not in chosen}
            sampling_metadata = replace(sampling_metadata, logprob_token_ids={**chosen, **rows})
        return original(self, logits, sampling_metadata, *args, **kwargs)

    sampler.forward = forward
