"""`sage llm`: local language models and the service that runs them."""

from typing import Any

import typer

from sage.tools.cli.light_command import LightCommand, LightGroup

from . import model
from .bench import bench
from .doctor import doctor
from .fine_tune import fine_tune
from .logs import logs
from .run import run
from .start import StartCommand, start
from .status import status
from .stop import stop


class _ModelFirst(LightGroup):
    """Lists `model` first, where Typer lists commands before groups."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names, in the order of the help."""
        return sorted(super().list_commands(ctx), key=lambda name: name != "model")


app = typer.Typer(
    help="Local language models, and the vLLM service that runs them.",
    cls=_ModelFirst,
    rich_markup_mode=None,
)
app.add_typer(model.app, name="model")
for name, function in (
    ("run", run),
    ("start", start),
    ("stop", stop),
    ("status", status),
    ("logs", logs),
    ("fine-tune", fine_tune),
    ("bench", bench),
    ("doctor", doctor),
):
    app.command(name, cls=StartCommand if name == "start" else LightCommand)(function)


@app.callback(invoke_without_command=True)
def llm(context: typer.Context) -> None:
    """Local language models, and the vLLM service that runs them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
