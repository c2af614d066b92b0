"""`sage llm fine-tune`: train, and look after what is trained."""

from __future__ import annotations

import typer

from sage.tools.cli.commands.fine_tune.jobs import cancel, list_jobs, logs, resume, show
from sage.tools.cli.commands.fine_tune.train import fine_tune
from sage.tools.cli.commands.options.groups import expanded
from sage.tools.cli.light_command import LightCommand, LightGroup

app = typer.Typer(cls=LightGroup, rich_markup_mode=None)
app.callback(invoke_without_command=True)(expanded(fine_tune))

for name, function in (
    ("list", list_jobs),
    ("show", show),
    ("logs", logs),
    ("resume", resume),
    ("cancel", cancel),
):
    app.command(name, cls=LightCommand)(expanded(function))
