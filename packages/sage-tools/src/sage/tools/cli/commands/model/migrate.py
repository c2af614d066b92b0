"""`sage llm model migrate`: the models of an earlier SAGE."""

from __future__ import annotations

import typer

from sage.tools.cli.commands.options.model_options import Display
from sage.tools.cli.terminal.output import write_data, write_json, write_note


def migrate(display: Display) -> None:
    """Take over the models of isage 0.1 or 0.2, checked and as they lie there.

    The earlier manifest stays beside the new one. A model that is not whole is named, and left
    where it is; the exit code is then 1.
    """
    from sage.common.model_registry.vllm_registry import migrate_registry

    done = migrate_registry()
    if display.as_json:
        write_json(
            {
                "models": [
                    {"model_id": each.model_id, "commit": each.commit, "path": str(each.path)}
                    for each in done.models
                ],
                "left": dict(done.left),
                "backup": None if done.backup is None else str(done.backup),
            }
        )
    else:
        for each in done.models:
            write_data(f"{each.model_id}: {len(each.files)} files, taken over")
        for model_id, problem in done.left.items():
            write_data(f"{model_id}: left as it was: {problem}")
    if done.backup is None:
        write_note("Nothing to migrate: this registry is of this SAGE.", quiet=display.is_bare)
    else:
        write_note(f"The earlier manifest is kept as {done.backup}.", quiet=display.is_bare)
    if done.left:
        write_note(f"Hint: `sage llm model download {next(iter(done.left))}` gets it anew.")
        raise typer.Exit(1)
