"""`sage llm cache`: folders that keep answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sage.tools.cli.commands.options.groups import expanded
from sage.tools.cli.commands.options.model_options import Consent, Display
from sage.tools.cli.errors import CommandError
from sage.tools.cli.light_command import LightCommand, LightGroup
from sage.tools.cli.terminal.asking import ask
from sage.tools.cli.terminal.output import write_data, write_json, write_note

if TYPE_CHECKING:
    from sage.common.components.sage_vllm.cache.cache_store import CacheStore, KeptOfModel

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of the cache.")]
_DAY = 24 * 3600.0  # seconds


def show(*, folder: Folder, display: Display) -> None:
    """Show what a cache keeps, by model."""
    from sage.common.model_registry.vllm_registry import format_bytes
    from sage.tools.cli.terminal.table import Column, write_table

    with _store(folder) as store:
        contents = store.contents()
    if display.as_json:
        write_json({"models": [asdict(each) for each in contents], **_sum(contents)})
        return
    columns = (
        Column(title="MODEL", priority=4),
        Column(title="ANSWERS", priority=3, right=True),
        Column(title="SIZE", priority=2, right=True),
        Column(title="OLDEST", priority=0),
        Column(title="LAST USED", priority=1),
    )
    rows = [
        (
            each.model,
            f"{each.answers:,}",
            format_bytes(each.bytes),
            _day(each.oldest),
            _day(each.last_used),
        )
        for each in contents
    ]
    write_table(columns, rows)


def prune(
    *,
    folder: Folder,
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help='Keep so much, such as "1GB".'),
    ] = None,
    unused_days: Annotated[
        float | None,
        typer.Option("--unused-days", min=0, help="Drop answers not used for so many days."),
    ] = None,
    display: Display,
) -> None:
    """Drop answers that were not used for long."""
    from sage.common.core.byte_size import byte_size

    if max_size is None and unused_days is None:
        raise typer.BadParameter("say what to drop: give --max-size, --unused-days or both")
    size = None if max_size is None else byte_size(max_size)
    if max_size is not None and size is None:
        raise typer.BadParameter(f"{max_size!r} is no size, such as 1GB", param_hint="--max-size")
    seconds = None if unused_days is None else unused_days * _DAY
    _drop(folder, display, max_bytes=size, unused_seconds=seconds)


def clear(*, folder: Folder, consent: Consent, display: Display) -> None:
    """Drop all answers of a cache."""
    with _store(folder) as store:
        total = _sum(store.contents())
    if consent.dry_run:
        if display.as_json:
            write_json({"dropped": 0, **total})
        else:
            write_data(f"drops {total['answers']:,} answers of {folder}")
        return
    if not consent.yes:
        question = f"Drop {total['answers']:,} answers of {folder}?"
        ask(question, does="drops answers", otherwise="Nothing was dropped.")
    _drop(folder, display, max_bytes=0)


def _drop(
    folder: Path,
    display: Display,
    *,
    max_bytes: int | None = None,
    unused_seconds: float | None = None,
) -> None:
    from sage.common.model_registry.vllm_registry import format_bytes

    with _store(folder) as store:
        dropped = store.prune(max_bytes=max_bytes, unused_seconds=unused_seconds)
        left = _sum(store.contents())
    if display.as_json:
        write_json({"dropped": dropped, **left})
        return
    size = format_bytes(left["bytes"])
    write_note(
        f"Dropped {dropped:,} answers; {left['answers']:,} are left, {size}.", quiet=display.quiet
    )


@contextmanager
def _store(folder: Path) -> Iterator[CacheStore]:
    import sqlite3

    from sage.common.components.sage_vllm.cache.cache_store import FILE, CacheStore
    from sage.common.core.local_path import local_path

    path = local_path(folder)
    if not (path / FILE).is_file():
        raise CommandError(
            f"{folder} is no cache: it has no {FILE}",
            "`sage llm run --cache FOLDER` makes one, and so does a service with cache=FOLDER.",
        )
    try:
        store = CacheStore(path)
        try:
            yield store
        finally:
            store.close()
    except sqlite3.Error as error:
        raise CommandError(
            f"the cache in {folder} cannot be used: {error}",
            f"Delete {path / FILE} to begin anew; nothing but kept answers is lost.",
        ) from error


def _sum(contents: list[KeptOfModel]) -> dict[str, int]:
    return {
        "answers": sum(each.answers for each in contents),
        "bytes": sum(each.bytes for each in contents),
    }


def _day(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d")


app = typer.Typer(
    cls=LightGroup, help="Show and drop the answers that a cache keeps.", rich_markup_mode=None
)
for name, function in (("show", show), ("prune", prune), ("clear", clear)):
    app.command(name, cls=LightCommand)(expanded(function))


@app.callback(invoke_without_command=True)
def cache(context: typer.Context) -> None:
    """Show and drop the answers that a cache keeps."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
