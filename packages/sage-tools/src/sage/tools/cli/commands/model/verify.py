"""`sage llm model verify`: is every byte still right."""

from __future__ import annotations

import typer

from sage.tools.cli.commands.options.model_options import Display, ModelOptions
from sage.tools.cli.terminal.output import write_data, write_json, write_note


def verify(model: ModelOptions, display: Display) -> None:
    """Check a model against its checksums, offline; without a model, every one."""
    from sage.common.model_registry.vllm_registry import list_models, verify_model

    model_id = model.optional_id()
    wanted = (
        [(model_id, model.revision)]
        if model_id is not None
        else [(each.model_id, each.commit) for each in list_models()]
    )
    reports = [verify_model(*each) for each in wanted]
    if display.as_json:
        write_json(
            [
                {
                    "model_id": each.model.model_id,
                    "commit": each.model.commit,
                    "ok": each.ok,
                    "problems": dict(each.problems),
                }
                for each in reports
            ]
        )
    else:
        for each in reports:
            name = f"{each.model.model_id} {each.model.revision}"
            if each.ok and not display.quiet:
                write_data(f"{name}: {len(each.model.files)} files, all right")
            for path, problem in each.problems.items():
                write_data(f"{name}: {path}: {problem}")
    broken = [each.model for each in reports if not each.ok]
    if broken:
        from sage.tools.cli.models.way_to_mend import way_to_mend

        for found in broken:
            write_note(f"Hint: {way_to_mend(found)}")
        raise typer.Exit(1)
