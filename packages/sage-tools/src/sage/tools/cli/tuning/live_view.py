"""A fine-tuning as it goes on: one line on a terminal, a line for each milestone elsewhere."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from sage.common.model_registry.vllm_registry import format_bytes, format_seconds
from sage.tools.cli.errors import Interrupted
from sage.tools.cli.terminal.output import is_rich, write_note
from sage.tools.cli.terminal.status_line import status_line

if TYPE_CHECKING:
    from sage.common.components.sage_vllm.fine_tuning import FineTuneJob
    from sage.tools.cli.commands.options.model_options import Display

_BAR = 24
_SHOW_EVERY, _ENDING = 0.1, 10.0  # seconds
_DOING = {
    "queued": "starting",
    "verifying": "verifying in vLLM",
    "registering": "registering",
    "evaluating": "evaluating",
}


@contextmanager
def follow(display: Display) -> Iterator[Callable[[FineTuneJob], None]]:
    """Give whom to tell the job; what happens is then shown until the block ends.

    Ctrl-C, by which whoever waits for the job asks it to stop after its step, waits for that and
    raises Interrupted; another Ctrl-C meanwhile ends it at once.
    """
    jobs: list[FineTuneJob] = []
    threads: list[threading.Thread] = []
    with status_line(quiet=display.quiet or display.as_json) as line:

        def watch(job: FineTuneJob) -> None:
            jobs.append(job)
            thread = threading.Thread(target=_show, args=(job, line, display), daemon=True)
            threads.append(thread)
            thread.start()

        try:
            yield watch
        except KeyboardInterrupt:
            if not jobs:
                raise
            try:
                line("")
                write_note(
                    "Stopping after this step; Ctrl-C again ends it at once.", quiet=display.is_bare
                )
                jobs[0].wait()
            except KeyboardInterrupt:
                _end(jobs[0])
            hint = f"Run `sage llm fine-tune resume {jobs[0].folder}` to go on."
            raise Interrupted(hint) from None
        finally:
            for thread in threads:
                thread.join(timeout=2)


def _end(job: FineTuneJob) -> None:
    """Have a job that was asked to stop end now; two wishes in an instant would be one to it."""
    end = time.monotonic() + _ENDING
    while job.cancel() and time.monotonic() < end:
        time.sleep(_SHOW_EVERY)
    with suppress(TimeoutError):  # it ends with this process, at the latest
        job.wait(_ENDING)


def _show(job: FineTuneJob, line: Callable[[str], None], display: Display) -> None:
    says_milestones = not (display.quiet or display.as_json or is_rich(sys.stderr))
    shown = 0.0
    line(_status(job))  # the first event takes as long as torch's import
    for event in job.events(follow=True):
        if display.as_json:
            print(json.dumps(event), file=sys.stderr, flush=True)
        elif event["type"] == "warning":
            line("")
            write_note(f"Warning: {event['message']}.", quiet=display.quiet)
        elif says_milestones and (text := _milestone(event)):
            write_note(text)
        elif event["type"] == "state" or (
            event["type"] == "step" and time.monotonic() - shown > _SHOW_EVERY
        ):
            shown = time.monotonic()
            line(_status(job))
    line("")


def _status(job: FineTuneJob) -> str:
    progress = job.progress
    if progress.state != "training":
        return f"{job.folder.name}: {_DOING.get(progress.state, progress.state)}"
    filled = round(_BAR * progress.step / progress.steps)
    parts = [
        f"{job.folder.name}: step {progress.step} of {progress.steps}",
        f"{'━' * filled}{'─' * (_BAR - filled)} {progress.step / progress.steps:.0%}",
    ]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.eval_loss is not None:
        parts.append(f"held out {progress.eval_loss:.3f}")
    if progress.tokens_per_second:
        parts.append(f"{progress.tokens_per_second:,.0f} tok/s")
    if progress.memory_bytes:
        parts.append(format_bytes(progress.memory_bytes))
    if progress.seconds_left is not None:
        parts.append(f"{format_seconds(progress.seconds_left)} left")
    return "  ".join(parts)


def _milestone(event: dict[str, Any]) -> str | None:
    if event["type"] == "state":
        return f"state {event['state']}"
    if event["type"] == "evaluation":
        exact = f"  exact {event['exact_match']:.1%}" if "exact_match" in event else ""
        return f"step {event['step']}  held-out loss {event['loss']:.4f}{exact}"
    if event["type"] == "checkpoint":
        return f"step {event['step']}  checkpoint"
    return None
