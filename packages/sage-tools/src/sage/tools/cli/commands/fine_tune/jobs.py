"""The commands on jobs: list, show, logs, resume, cancel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage.tools.cli.commands.options.model_options import Display, Json
from sage.tools.cli.terminal.output import write_data, write_json, write_note
from sage.tools.cli.terminal.table import Column, write_table

if TYPE_CHECKING:
    from sage.common.components.sage_vllm.fine_tuning import FineTuneJob

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of the job.")]


def list_jobs(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Where the folders of jobs lie.")
    ] = Path(),
    as_json: Json = False,
) -> None:
    """List the fine-tunings whose folders lie in a folder."""
    from sage.common.components.sage_vllm.fine_tuning import fine_tune_jobs

    jobs = fine_tune_jobs(folder)
    if as_json:
        write_json([{"folder": str(job.folder), **_summary(job)} for job in jobs])
        return
    if not jobs:
        write_note(f"There are no fine-tunings in {folder.absolute()}.")
        return
    columns = [
        Column(title="FOLDER", priority=9),
        Column(title="BASE", priority=5),
        Column(title="AS", priority=6),
        Column(title="STATE", priority=8),
        Column(title="STEP", priority=4, right=True),
    ]
    rows = []
    for job in jobs:
        progress = job.progress
        rows.append(
            [
                job.folder.name,
                str(job.request["base_model"]),
                str(job.request.get("output_model", "-")),
                progress.state,
                f"{progress.step} of {progress.steps}",
            ]
        )
    write_table(columns, rows)


def show(folder: Folder, as_json: Json = False) -> None:
    """Show how far a fine-tuning is, or what came of it."""
    from sage.common.components.sage_vllm.fine_tuning import FineTuneJob
    from sage.tools.cli.tuning.report_view import write_report

    job = FineTuneJob.open(folder)
    summary = _summary(job)
    if as_json:
        report = job.result() if summary["state"] == "succeeded" else None
        metrics = job.metrics()
        write_json(
            {**summary, "metrics": metrics, "checkpoints": job.checkpoints(), "report": report}
        )
        return
    for name, value in summary.items():
        if value is not None:
            write_data(f"{name}: {value}")
    if summary["state"] == "succeeded":
        write_report(job.result())
    elif summary["state"] in ("failed", "interrupted", "cancelled"):
        write_note(f"Why: {job.reason}. `sage llm fine-tune resume {folder}` goes on.")


def logs(
    folder: Folder,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on to the job's end, or until Ctrl-C.")
    ] = False,
) -> None:
    """Show the events of a fine-tuning, a line of JSON each."""
    from sage.common.components.sage_vllm.fine_tuning import FineTuneJob

    try:
        for event in FineTuneJob.open(folder).events(follow=follow):
            print(json.dumps(event), flush=follow)
    except KeyboardInterrupt:
        return  # which is how one leaves it


def resume(folder: Folder, *, display: Display) -> None:
    """Go on with a fine-tuning from its last checkpoint."""
    from sage.common.components.sage_vllm.fine_tuning import resume_fine_tuning
    from sage.tools.cli.tuning.live_view import follow
    from sage.tools.cli.tuning.report_view import write_result

    with follow(display) as watched:
        job = resume_fine_tuning(folder)
        try:
            watched(job)
            outcome = job.result()
        except BaseException:
            job.cancel()
            raise
    write_result(outcome, display)


def cancel(folder: Folder) -> None:
    """Have a fine-tuning stop after its step; it can be resumed."""
    from sage.common.components.sage_vllm.fine_tuning import FineTuneJob

    job = FineTuneJob.open(folder)
    if not job.cancel():
        write_note(f"Nobody works on it: it is {job.state}.")
        return
    write_note(f"It is {job.wait()}, at step {job.progress.step} of {job.progress.steps}.")


def _summary(job: FineTuneJob) -> dict[str, object]:
    progress = job.progress
    return {
        "id": job.id,
        "base_model": job.request["base_model"],
        "output_model": job.request.get("output_model"),
        "state": progress.state,
        "step": progress.step,
        "steps": progress.steps,
        "loss": progress.loss,
        "eval_loss": progress.eval_loss,
        "tokens_per_second": progress.tokens_per_second,
    }
