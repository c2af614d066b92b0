"""What the entry point ``sage.fine_tuning`` leads to: checks, and jobs of their own process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.fine_tuning import (
    FineTuneJob,
    FineTuneJobError,
    FineTuneRequest,
)
from sage.common.components.sage_vllm.fine_tuning.job_folder import read_job
from sage.tuning.estimate import refuse_for_want_of_memory
from sage.tuning.job.launch import launch
from sage.tuning.job.making import check_unchanged, make_job
from sage.tuning.plan import make_plan
from sage.tuning.settings import settings_from_json


class TuningBackend:
    """Trains with TRL and PEFT, verifies in vLLM, registers what is better; see JobBackend."""

    def __call__(self, request: FineTuneRequest) -> Mapping[str, Any]:
        """Train, and return the report when the job is done.

        Raises FineTuneRequestError, and FineTuneError if the job fails.
        """
        return self.start(request).result()

    def check(self, request: FineTuneRequest) -> dict[str, Any]:
        """Read the dataset and return what it would be trained as; nothing is written.

        Raises FineTuneRequestError for all that is wrong with the request.
        """
        plan = make_plan(request)
        if request.while_training != "pause":  # else there will be more memory when it starts
            refuse_for_want_of_memory(request, plan.needs)
        return plan.report()

    def start(self, request: FineTuneRequest, *, idle: bool = False) -> FineTuneJob:
        """Check a request and start its job; raises FineTuneRequestError."""
        plan = make_plan(request)
        refuse_for_want_of_memory(request, plan.needs)
        folder = make_job(plan)
        launch(folder, threads=plan.settings.threads, idle=idle)
        return FineTuneJob.open(folder)

    def resume(self, folder: Path, *, idle: bool = False) -> FineTuneJob:
        """Start a job again at its last checkpoint; raises FineTuneJobError."""
        job = FineTuneJob.open(folder)
        if job.state == "succeeded":
            hint = f"`sage llm fine-tune show {folder}` has its report"
            raise FineTuneJobError(folder, "has succeeded already", hint)
        known = read_job(folder)
        check_unchanged(FineTuneRequest.from_json(known["request"]), known)
        launch(folder, threads=settings_from_json(known["settings"]).threads, idle=idle)
        return job


train = TuningBackend()
