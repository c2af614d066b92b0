"""`sage llm model`: the local models."""

from __future__ import annotations

import typer

from sage.tools.cli.commands.model.delete import delete, prune
from sage.tools.cli.commands.model.download import download, repair, update
from sage.tools.cli.commands.model.import_folder import import_folder
from sage.tools.cli.commands.model.migrate import migrate
from sage.tools.cli.commands.model.show import show
from sage.tools.cli.commands.model.verify import verify
from sage.tools.cli.commands.options.groups import expanded
from sage.tools.cli.light_command import LightCommand, LightGroup

app = typer.Typer(
    cls=LightGroup, help="Show, download, check and delete local models.", rich_markup_mode=None
)

for name, function in (
    ("show", show),
    ("download", download),
    ("delete", delete),
    ("verify", verify),
    ("repair", repair),
    ("update", update),
    ("prune", prune),
    ("import", import_folder),
    ("migrate", migrate),
):
    app.command(name, cls=LightCommand)(expanded(function))
for name, function in (("list", show), ("ls", show), ("rm", delete)):
    app.command(name, cls=LightCommand, hidden=True)(expanded(function))


@app.callback(invoke_without_command=True)
def model(context: typer.Context) -> None:
    """Show, download, check and delete local models."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
