"""`sage llm`: local language models and the service that runs them."""

import typer

from sage.tools.cli.light_command import LightGroup

from . import model

app = typer.Typer(
    help="Local language models, and the vLLM service that runs them.",
    cls=LightGroup,
    rich_markup_mode=None,
)
app.add_typer(model.app, name="model")


@app.callback(invoke_without_command=True)
def llm(context: typer.Context) -> None:
    """Local language models, and the vLLM service that runs them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
