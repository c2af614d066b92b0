"""FineTuningCalls: fine-tuning beside the engines of a service, or in their place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.requests.gather import wait_for
from sage.common.core.background import in_background
from sage.common.core.futures import hand_over

if TYPE_CHECKING:
    from sage.common.components.sage_vllm.fine_tuning import FineTuneJob


class FineTuningCalls:
    """The part of a VLLMService that has models trained.

    What trains is a process of its own, which runs only while the engines leave processors idle;
    or with ``while_training="pause"``, while there are no engines.
    """

    config: VLLMServiceConfig
    _engines: EnginePool
    _check_open: Callable[[], None]

    def fine_tune(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Train by a request and return the report; an adapter can be named by ``lora=`` then.

        ``while_training="pause"`` frees the engines meanwhile, where memory does not hold both:
        calls that come wait until they are built again.

        Raises ValueError for a request that is not valid, NotImplementedError without a backend,
        and FineTuneError for a job that fails.
        """
        report: dict[str, Any] = wait_for(self.fine_tune_future(request))
        return report

    def fine_tune_async(self, request: Mapping[str, Any]) -> FineTuneJob:
        """Start to train by a request, and return the job at once.

        What is wrong with the request is raised here, before anything is trained.
        """
        from sage.common.components.sage_vllm.fine_tuning import start_fine_tuning

        with ExitStack() as stack:
            serving = stack.enter_context(self._engines_meanwhile(request))
            job = start_fine_tuning(request, root=self.config.model_root, idle=serving)
            if not serving:
                in_background(_close_after, stack.pop_all(), job)
        return job

    def fine_tune_jobs(self, folder: str | os.PathLike[str] = ".") -> list[dict[str, Any]]:
        """Return the jobs whose folders lie in a folder: ``id``, ``folder`` and ``state``."""
        from sage.common.components.sage_vllm.fine_tuning import fine_tune_jobs

        return [
            {"id": job.id, "folder": str(job.folder), "state": job.state}
            for job in fine_tune_jobs(folder)
        ]

    def cancel_fine_tune(self, folder: str | os.PathLike[str]) -> bool:
        """Have a job stop after its step, with a checkpoint; False if nobody works on it."""
        from sage.common.components.sage_vllm.fine_tuning import FineTuneJob

        return FineTuneJob.open(folder).cancel()

    def fine_tune_future(self, request: Mapping[str, Any]) -> Future[dict[str, Any]]:
        """Train, and return a Future of the report; cancelling it cancels the job."""
        report: Future[dict[str, Any]] = Future()

        def follow(job: FineTuneJob) -> None:
            report.add_done_callback(lambda done: job.cancel() if done.cancelled() else None)

        hand_over(in_background(self._fine_tune, request, follow), report)
        return report

    def _fine_tune(
        self, request: Mapping[str, Any], started: Callable[[FineTuneJob], object]
    ) -> dict[str, Any]:
        from sage.common.components.sage_vllm.fine_tuning import fine_tune

        with self._engines_meanwhile(request) as serving:
            return fine_tune(request, root=self.config.model_root, idle=serving, started=started)

    @contextmanager
    def _engines_meanwhile(self, request: Mapping[str, Any]) -> Iterator[bool]:
        """Free the engines while the block lasts, if a request asks for it; give if they serve."""
        from sage.common.components.sage_vllm.fine_tuning import review_fine_tuning

        if not (isinstance(request, Mapping) and request.get("while_training") == "pause"):
            yield True
            return
        self._check_open()
        # What is wrong with it is said before any call has to wait.
        review_fine_tuning(request, root=self.config.model_root)
        with self._engines.places.freed():
            yield False


def _close_after(stack: ExitStack, job: FineTuneJob) -> None:
    with stack:
        job.wait()
