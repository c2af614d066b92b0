"""`sage llm model import`: a model that is already on this machine."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from sage.tools.cli.commands.options.model_options import Display, Revision, Tags, Type, parse_tags
from sage.tools.cli.terminal.output import write_data, write_json, write_note


def import_folder(
    *,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The id it shall have.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where its files are.")],
    revision: Revision = None,
    link: Annotated[
        bool, typer.Option("--link", help="Link to the files instead of copying them.")
    ] = False,
    tag: Tags = None,
    kind: Type = None,
    display: Display,
) -> None:
    """Register the model in a folder."""
    from sage.common.model_registry.vllm_registry import import_model
    from sage.tools.cli.models.model_view import model_json

    if Path(model).is_dir() and not folder.exists():
        swapped = shlex.join(["sage", "llm", "model", "import", str(folder), model])
        raise typer.BadParameter(
            f"there is no folder {str(folder)!r}, but {model!r} is one: the id is named first, "
            f"`{swapped}`"
        )
    found = import_model(model, folder, revision=revision, link=link, tags=parse_tags(tag, kind))
    if display.as_json:
        write_json(model_json(found))
    else:
        write_note(f"{found.model_id} is registered.", quiet=display.quiet)
        write_data(str(found.path))
