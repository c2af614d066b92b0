"""`sage llm model delete` and `prune`: what frees disk."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sage.tools.cli.commands.options.model_options import (
    DryRun,
    Json,
    LocalModel,
    LocalModelOption,
    Quiet,
    Revision,
    Yes,
    one_model,
)
from sage.tools.cli.terminal.output import write_data, write_json, write_note

if TYPE_CHECKING:
    from sage.common.model_registry.vllm_registry import DeletionPlan


def delete(
    model: LocalModel = None,
    model_option: LocalModelOption = None,
    revision: Revision = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Delete a model, or one revision of it."""
    from sage.common.model_registry.vllm_registry import ModelNotFoundError, plan_deletion

    model_id = one_model(model, model_option)
    plan = plan_deletion(model_id, revision)
    if _confirmed(plan, yes=yes, dry_run=dry_run, as_json=as_json, quiet=quiet):
        if not plan.execute() and plan.models:
            raise ModelNotFoundError(
                model_id, root=plan.root, hint="Another process has just deleted it."
            )
        _report(plan, quiet=quiet or as_json)


def prune(
    unused_days: Annotated[
        float | None,
        typer.Option("--unused-days", min=0, help="Also models not used for so many days."),
    ] = None,
    yes: Yes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Remove the left-overs of interrupted work and, if asked to, models long unused."""
    from sage.common.model_registry.vllm_registry import plan_prune

    plan = plan_prune(unused_days=unused_days)
    if not plan.models and not plan.leftovers:
        if as_json:
            _write_plan(plan, deleted=False, as_json=True)
        write_note("Nothing to prune.", quiet=quiet or as_json)
    elif _confirmed(plan, yes=yes, dry_run=dry_run, as_json=as_json, quiet=quiet):
        plan.execute()
        _report(plan, quiet=quiet or as_json)


def _confirmed(plan: DeletionPlan, *, yes: bool, dry_run: bool, as_json: bool, quiet: bool) -> bool:
    """Show the plan, then ask, unless that was answered on the command line."""
    if dry_run or yes:
        if as_json or not quiet:
            _write_plan(plan, deleted=not dry_run, as_json=as_json)
        return not dry_run
    if not sys.stdin.isatty():
        raise typer.BadParameter("this deletes files and nobody can be asked: add --yes")
    _write_plan(plan, deleted=False, as_json=False, to_user=True)
    sys.stderr.write("Delete this? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        write_note("Nothing was deleted.")
        raise typer.Exit(1)
    if as_json:
        _write_plan(plan, deleted=True, as_json=True)
    return True


def _write_plan(plan: DeletionPlan, *, deleted: bool, as_json: bool, to_user: bool = False) -> None:
    from sage.common.model_registry.vllm_registry import format_bytes
    from sage.tools.cli.models.model_view import short_revision

    if as_json:
        write_json(
            {
                "models": [
                    {"model_id": each.model_id, "revision": each.revision, "commit": each.commit}
                    for each in plan.models
                ],
                "leftovers": [str(folder) for folder in plan.leftovers],
                "freed_bytes": plan.freed_bytes,
                "deleted": deleted,
            }
        )
        return
    write = write_note if to_user else write_data
    for each in plan.models:
        size = format_bytes(each.size_bytes)
        write(f"model     {each.model_id} {short_revision(each.revision)} ({size})")
    for folder in plan.leftovers:
        write(f"left-over {folder}")
    write(f"frees     {format_bytes(plan.freed_bytes)}")


def _report(plan: DeletionPlan, *, quiet: bool) -> None:
    from sage.common.model_registry.vllm_registry import format_bytes

    write_note(f"Deleted. {format_bytes(plan.freed_bytes)} are free again.", quiet=quiet)
