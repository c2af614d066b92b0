"""What engines share in this process: its environment, torch's process groups, vLLM's own code."""

from __future__ import annotations

import threading

from sage.common.components.sage_vllm.backend.inline_patches import (
    add_group_of_experts,
    keep_collections_short,
    make_forward_passes_one_at_a_time,
    map_kv_caches,
    register_kernels_once,
)
from sage.common.components.sage_vllm.backend.scoring.logprobs_by_request import (
    keep_logprobs_apart,
)

BUILD_LOCK = threading.Lock()  # building reads settings from the process's environment
inline_runtimes: set[int] = set()  # guarded by BUILD_LOCK; they share torch's process groups
_is_prepared = False  # guarded by BUILD_LOCK


def prepare_for_inline() -> None:
    """Prepare this process for inline engines, once; the caller holds BUILD_LOCK."""
    global _is_prepared
    if _is_prepared:
        return
    from vllm import forward_context
    from vllm.distributed import parallel_state
    from vllm.platforms import current_platform
    from vllm.utils import gc_utils
    from vllm.v1.engine import core
    from vllm.v1.sample.sampler import Sampler
    from vllm.v1.worker import gpu_model_runner, gpu_worker, utils

    add_group_of_experts(gpu_worker, parallel_state)
    make_forward_passes_one_at_a_time(forward_context, gpu_model_runner.GPUModelRunner)
    register_kernels_once(type(current_platform))
    map_kv_caches(utils)
    keep_logprobs_apart(Sampler)
    keep_collections_short(core, gc_utils, gpu_model_runner, gpu_worker, parallel_state)
    _is_prepared = True
