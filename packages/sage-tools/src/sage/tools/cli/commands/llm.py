"""`sage llm`: local language models and the service that runs them."""

from __future__ import annotations

from typing import Any

import typer

from sage.tools.cli.commands.bench import bench
from sage.tools.cli.commands.cache import app as cache_app
from sage.tools.cli.commands.doctor import doctor
from sage.tools.cli.commands.fine_tune.group import app as fine_tune_app
from sage.tools.cli.commands.improve import improve
from sage.tools.cli.commands.logs import logs
from sage.tools.cli.commands.model.group import app as model_app
from sage.tools.cli.commands.options.groups import expanded
from sage.tools.cli.commands.run import run
from sage.tools.cli.commands.start import StartCommand, start
from sage.tools.cli.commands.status import status
from sage.tools.cli.commands.stop import stop
from sage.tools.cli.light_command import LightCommand, LightGroup

_ORDER = [
    "model",
    "run",
    "start",
    "stop",
    "status",
    "logs",
    "fine-tune",
    "improve",
    "bench",
    "doctor",
    "cache",
]


class _InOrder(LightGroup):
    """Lists groups and commands in one order, where Typer lists commands before groups."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in the order of the help."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = typer.Typer(
    help="Local language models, and the vLLM service that runs them.",
    cls=_InOrder,
    rich_markup_mode=None,
)
app.add_typer(model_app, name="model")
app.add_typer(fine_tune_app, name="fine-tune")
app.add_typer(cache_app, name="cache")
for name, function in (
    ("run", run),
    ("start", start),
    ("stop", stop),
    ("status", status),
    ("logs", logs),
    ("improve", improve),
    ("bench", bench),
    ("doctor", doctor),
):
    app.command(name, cls=StartCommand if name == "start" else LightCommand)(expanded(function))


@app.callback(invoke_without_command=True)
def llm(context: typer.Context) -> None:
    """Local language models, and the vLLM service that runs them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
