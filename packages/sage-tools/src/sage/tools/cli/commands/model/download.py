"""`sage llm model download`, `repair` and `update`: what talks to the hub."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from sage.tools.cli.commands.options.model_options import (
    Display,
    HubModel,
    HubModelOption,
    ModelOptions,
    Revision,
    Tags,
    Type,
    one_model,
    parse_tags,
)
from sage.tools.cli.terminal.output import write_data, write_json, write_note

if TYPE_CHECKING:
    from sage.common.model_registry.vllm_registry import DownloadStatus, ModelInfo, UpdateCheck


class Source(StrEnum):
    """Where a model can come from."""

    HUB = "hub"


def download(
    *,
    model: HubModel = None,
    model_option: HubModelOption = None,
    revision: Revision = None,
    source: Annotated[Source, typer.Option(help="Where to get it from.")] = Source.HUB,  # noqa: ARG001 - there is one source so far
    include: Annotated[
        list[str] | None, typer.Option(help="Only files that match; may be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="No files that match; may be repeated.")
    ] = None,
    tag: Tags = None,
    kind: Type = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Accept weights that can run code when loaded.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Fetch all of it anew.")] = False,
    no_progress: Annotated[
        bool, typer.Option("--no-progress", help="Do not show how far it is.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Files fetched at once.")] = 8,
    display: Display,
) -> None:
    """Download a model, verify it and register it. An interrupted download goes on where it was.

    A token for gated or private models is taken from HF_TOKEN or `hf auth login`.
    """
    from sage.common.model_registry.vllm_registry import download_model
    from sage.tools.cli.terminal.download_display import download_display

    model_id = one_model(model, model_option)
    with download_display(quiet=display.quiet or no_progress) as watch:
        found = download_model(
            model_id,
            revision,
            _with_memory_warning(watch, quiet=display.quiet),
            allow_patterns=include,
            ignore_patterns=exclude,
            allow_pickle=allow_pickle,
            force=force,
            tags=parse_tags(tag, kind),
            max_workers=workers,
        )
    _write_model(found, display)


def repair(model: ModelOptions, display: Display) -> None:
    """Verify a model and fetch again only what is bad."""
    from sage.common.model_registry.vllm_registry import repair_model
    from sage.tools.cli.terminal.download_display import download_display

    model_id = model.one_id()
    with download_display(quiet=display.quiet) as watch:
        report = repair_model(model_id, model.revision, watch)
    if display.as_json:
        write_json({"model_id": model_id, "repaired": dict(report.problems)})
        return
    for path, problem in report.problems.items():
        write_data(f"{path}: {problem}, fetched again")
    if report.ok:
        write_note(f"{model_id} is whole, nothing to repair.", quiet=display.quiet)


def update(
    *,
    model: ModelOptions,
    check: Annotated[bool, typer.Option("--check", help="Only tell what is outdated.")] = False,
    display: Display,
) -> None:
    """Get what a model's revision means on the hub now; without a model, for every one."""
    from sage.common.model_registry.vllm_registry import check_update, list_models, update_model
    from sage.tools.cli.terminal.download_display import download_display

    model_id = model.optional_id()
    wanted = (
        [(model_id, model.revision)]
        if model_id is not None
        else [(each.model_id, each.revision) for each in list_models() if each.source == "hub"]
    )
    checks = [check_update(*each) for each in wanted]
    if not check:
        for each in checks:
            if each.outdated:
                with download_display(quiet=display.quiet) as watch:
                    update_model(each.model.model_id, each.model.revision, watch)
    _write_updates(checks, display, done=not check)


def _write_updates(checks: list[UpdateCheck], display: Display, *, done: bool) -> None:
    if display.as_json:
        write_json(
            [
                {
                    "model_id": each.model.model_id,
                    "revision": each.model.revision,
                    "commit": each.model.commit,
                    "latest": each.latest,
                    "outdated": each.outdated,
                    "updated": each.outdated and done,
                }
                for each in checks
            ]
        )
        return
    for each in checks:
        model = each.model
        change = f"{model.commit[:8]} -> {each.latest[:8]}" if each.outdated else "current"
        write_data(f"{model.model_id} {model.revision}: {change}")
        if each.outdated and done:
            write_note(
                "The old commit is kept for what may be using it. To free it: "
                f"`sage llm model delete {model.model_id} --revision {model.commit[:8]}`",
                quiet=display.quiet,
            )


def _write_model(model: ModelInfo, display: Display) -> None:
    from sage.common.model_registry.vllm_registry import format_bytes
    from sage.tools.cli.models.model_view import model_json, short_revision

    if display.as_json:
        write_json(model_json(model))
        return
    write_note(
        f"{model.model_id} ({short_revision(model.revision)}, {format_bytes(model.size_bytes)}) "
        "is complete and verified.",
        quiet=display.quiet,
    )
    write_data(str(model.path))


def _with_memory_warning(
    watch: Callable[[DownloadStatus], None], *, quiet: bool
) -> Callable[[DownloadStatus], None]:
    """Warn when the size is first known: better before the download than after it."""
    from sage.tools.cli.machine.machine_memory import machine_memory

    known = False

    def tell(status: DownloadStatus) -> None:
        nonlocal known
        if not known and status.phase == "downloading":
            known = True
            memory = machine_memory()
            if 0 < memory.total < status.total_bytes:
                from sage.common.model_registry.vllm_registry import format_bytes

                write_note(
                    f"Warning: {status.model_id} has {format_bytes(status.total_bytes)} of files, "
                    f"more than {memory.device} has memory ({format_bytes(memory.total)}).",
                    quiet=quiet,
                )
        watch(status)

    return tell
