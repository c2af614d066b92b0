"""`sage llm model delete` and `prune`: what frees disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sage.tools.cli.commands.options.model_options import Consent, Display, ModelOptions
from sage.tools.cli.terminal.asking import ask
from sage.tools.cli.terminal.output import write_data, write_json, write_note

if TYPE_CHECKING:
    from sage.common.model_registry.vllm_registry import DeletionPlan


def delete(model: ModelOptions, consent: Consent, display: Display) -> None:
    """Delete a model, or one revision of it."""
    from sage.common.model_registry.vllm_registry import ModelNotFoundError, plan_deletion

    model_id = model.one_id()
    plan = plan_deletion(model_id, model.revision)
    if _confirmed(plan, consent, display):
        if not plan.execute() and plan.models:
            raise ModelNotFoundError(
                model_id, root=plan.root, hint="Another process has just deleted it."
            )
        _report(plan, display)


def prune(
    *,
    unused_days: Annotated[
        float | None,
        typer.Option("--unused-days", min=0, help="Also models not used for so many days."),
    ] = None,
    consent: Consent,
    display: Display,
) -> None:
    """Remove the left-overs of interrupted work and, if asked to, models long unused."""
    from sage.common.model_registry.vllm_registry import plan_prune

    plan = plan_prune(unused_days=unused_days)
    if not plan.models and not plan.leftovers:
        if display.as_json:
            _write_plan(plan, deleted=False, as_json=True)
        write_note("Nothing to prune.", quiet=display.is_bare)
    elif _confirmed(plan, consent, display):
        plan.execute()
        _report(plan, display)


def _confirmed(plan: DeletionPlan, consent: Consent, display: Display) -> bool:
    """Show the plan, then ask, unless that was answered on the command line."""
    if consent.dry_run or consent.yes:
        if display.as_json or not display.quiet:
            _write_plan(plan, deleted=not consent.dry_run, as_json=display.as_json)
        return not consent.dry_run
    ask(
        "Delete this?",
        does="deletes files",
        otherwise="Nothing was deleted.",
        show=lambda: _write_plan(plan, deleted=False, as_json=False, to_user=True),
    )
    if display.as_json:
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


def _report(plan: DeletionPlan, display: Display) -> None:
    from sage.common.model_registry.vllm_registry import format_bytes

    write_note(
        f"Deleted. {format_bytes(plan.freed_bytes)} are free again.",
        quiet=display.is_bare,
    )
