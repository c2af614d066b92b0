"""Options by which most commands are told a model, and how to print what they have to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


def local_model_ids(incomplete: str) -> list[str]:
    """Complete the id of a local model; nothing where the registry cannot be read."""
    from sage.common.model_registry.vllm_registry import ModelRegistryError, list_models

    try:
        ids = {model.model_id for model in list_models()}
    except (ModelRegistryError, OSError):
        return []
    return sorted(each for each in ids if each.startswith(incomplete))


HubModel = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="Id of a model: <owner>/<name>.")
]
HubModelOption = Annotated[
    str | None, typer.Option("--model", "-m", help="The same, as an option.")
]
Revision = Annotated[str | None, typer.Option("--revision", "-r", help="Branch, tag or commit.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TYPES = ("text", "embedding", "classification", "reward", "lora")

Type = Annotated[
    str | None,
    typer.Option("--as", metavar="TYPE", help=f"What it is, if in doubt: {', '.join(TYPES)}."),
]
Tags = Annotated[
    list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="A tag; may be repeated.")
]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which local model a command is for."""

    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL", help="Id of a local model.", autocompletion=local_model_ids
        ),
    ] = None
    model_option: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="The same, as an option.", autocompletion=local_model_ids
        ),
    ] = None
    revision: Revision = None

    def optional_id(self) -> str | None:
        """Return the model asked for in either way."""
        return optional_model(self.model, self.model_option)

    def one_id(self) -> str:
        """Return the model asked for in either way; it is a usage error if there is none."""
        return one_model(self.model, self.model_option)


@dataclass(frozen=True, kw_only=True)
class Consent:
    """Whether something that cannot be undone is to be done."""

    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show what would be done, and do nothing.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class Display:
    """How a command prints what it has to say."""

    as_json: Json = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but the data itself, and errors.")
    ] = False

    @property
    def is_bare(self) -> bool:
        """Whether notes beside the data are unwelcome: JSON says all that they would."""
        return self.as_json or self.quiet


def optional_model(argument: str | None, option: str | None) -> str | None:
    """Return the model asked for in either way."""
    if argument is not None and option is not None and argument != option:
        raise typer.BadParameter(f"two models were given: {argument} and {option}")
    return argument if argument is not None else option


def one_model(argument: str | None, option: str | None) -> str:
    """Return the model asked for in either way; it is a usage error if there is none."""
    model = optional_model(argument, option)
    if model is None:
        raise typer.BadParameter("which model? Give its id, as an argument or with --model")
    return model


def parse_tags(tags: list[str] | None, kind: str | None = None) -> dict[str, str | int]:
    """{"KEY": "VALUE"} from KEY=VALUE, and the type where one is given."""
    if kind is not None and kind not in TYPES:
        raise typer.BadParameter(f"{kind!r} is none of {', '.join(TYPES)}")
    pairs = [tag.partition("=") for tag in tags or ()]
    for key, equals, _ in pairs:
        if not key or not equals:
            raise typer.BadParameter(f"a tag is KEY=VALUE, not {key!r}")
    types = {} if kind is None else {"type": kind}
    return {**{key: value for key, _, value in pairs}, **types}
