"""Fine-tuning: the request, checked in full, and the way to whoever carries it out."""

from __future__ import annotations

from sage.common.components.sage_vllm.fine_tuning.errors import (
    FineTuneError,
    FineTuneJobError,
    FineTuneRequestError,
    FineTuningPendingError,
)
from sage.common.components.sage_vllm.fine_tuning.hook import (
    fine_tune,
    preview_fine_tuning,
    resume_fine_tuning,
    review_fine_tuning,
    start_fine_tuning,
)
from sage.common.components.sage_vllm.fine_tuning.job import (
    FineTuneJob,
    FineTuneProgress,
    fine_tune_jobs,
)
from sage.common.components.sage_vllm.fine_tuning.request import FineTuneRequest, check_request

__all__ = [
    "FineTuneError",
    "FineTuneJob",
    "FineTuneJobError",
    "FineTuneProgress",
    "FineTuneRequest",
    "FineTuneRequestError",
    "FineTuningPendingError",
    "check_request",
    "fine_tune",
    "fine_tune_jobs",
    "preview_fine_tuning",
    "resume_fine_tuning",
    "review_fine_tuning",
    "start_fine_tuning",
]
