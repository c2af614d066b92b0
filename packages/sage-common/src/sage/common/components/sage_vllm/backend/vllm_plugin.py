"""What vLLM calls in each of its processes: a plugin of the group ``vllm.general_plugins``.

This package's pyproject.toml names it. vLLM that SAGE has not started is left alone.
"""

from __future__ import annotations

import os

from sage.common.components.sage_vllm.backend.cpu_kernels import rotate_separate_heads
from sage.common.components.sage_vllm.backend.scoring.logprobs_by_request import (
    keep_logprobs_apart,
)
from sage.common.components.sage_vllm.host.lifeline import HOST_VARIABLE, die_with_parent


def prepare_process() -> None:
    """Tie this process to its host, and mend in it what is wrong in vLLM.

    See ``cpu_kernels`` and ``logprobs_by_request``.
    """
    if HOST_VARIABLE not in os.environ:
        return
    die_with_parent()
    from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
    from vllm.v1.sample.sampler import Sampler

    rotate_separate_heads(RotaryEmbedding)
    keep_logprobs_apart(Sampler)
