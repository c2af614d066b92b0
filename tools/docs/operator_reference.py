"""Writes the reference of pipelines' classes and methods from their signatures and docstrings.

    python tools/docs/operator_reference.py

What stands above the marker in the page is written by hand and kept. A test compares the page with
what this makes. A parameter that no docstring describes is an error.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from sage.common.core.functions import AsyncMapFunction
from sage.kernel.api import CollectSink, DataStream, FailedRecord, LocalEnvironment
from sage.libs.io import JSONLSink, JSONLSource, ParquetSink, ParquetSource
from sage.libs.operators import (
    VLLMClassifyOperator,
    VLLMEmbeddingOperator,
    VLLMScoreOperator,
    VLLMServiceGenerator,
)
from sage.libs.rag import OpenAIGenerator
from sage.middleware.services.memory import register_memory_service
from sage.middleware.services.vllm import register_vllm_service

PAGE = Path(__file__).parents[2] / "docs-public" / "docs_src" / "operators.md"
MARKER = "<!-- From here on made by tools/docs/operator_reference.py -->\n"
WIDTH = 78  # of code, so that a page shows it whole
PARTS: dict[str, tuple[Any, ...]] = {
    "Operators on models": (
        VLLMServiceGenerator,
        VLLMEmbeddingOperator,
        VLLMScoreOperator,
        VLLMClassifyOperator,
        OpenAIGenerator,
    ),
    "Sources": (JSONLSource, ParquetSource),
    "Sinks": (JSONLSink, ParquetSink, CollectSink, FailedRecord),
    "Streams": (
        DataStream,
        DataStream.map,
        DataStream.flatmap,
        DataStream.filter,
        DataStream.keyby,
        DataStream.union,
        DataStream.sink,
        DataStream.print,
        DataStream.collect,
        AsyncMapFunction,
    ),
    "The environment": (
        LocalEnvironment,
        LocalEnvironment.from_collection,
        LocalEnvironment.from_source,
        LocalEnvironment.from_batch,
        LocalEnvironment.register_service,
        register_vllm_service,
        register_memory_service,
        LocalEnvironment.submit,
        LocalEnvironment.asubmit,
        LocalEnvironment.wait,
        LocalEnvironment.stop,
        LocalEnvironment.close,
        LocalEnvironment.call_service,
        LocalEnvironment.acall_service,
        LocalEnvironment.service,
        LocalEnvironment.metrics,
    ),
}
OWNERS = {"DataStream": "stream"} | dict.fromkeys(
    ("LocalEnvironment", "Environment", "EnvironmentServices", "AsyncioRuns"), "env"
)
_SECTION = re.compile(r"^(Args|Raises):\n((?:(?:    .*)?\n)*)", re.MULTILINE)
_ENTRY = re.compile(r"^([*\w][*\w, ]*): ((?:.*\n?)(?:(?: +.*)?\n?)*)", re.MULTILINE)


class _ClassName(str):
    """A default that is a class, shown by its name alone."""

    __slots__ = ()
    __repr__ = str.__str__


class Docs(NamedTuple):
    """A docstring in its parts; ``args`` and ``raises`` by name."""

    text: str
    args: dict[str, str]
    raises: dict[str, str]


def written(page: str) -> str:
    """Return the page with everything below the marker made anew."""
    by_hand, marker, _ = page.partition(MARKER)
    if not marker:
        raise ValueError(f"{PAGE} has lost its marker: {MARKER.strip()}")
    made = [f"## {part}\n\n" + "\n".join(map(section, things)) for part, things in PARTS.items()]
    return "\n".join([by_hand + marker, *made])


def section(thing: Any) -> str:
    """Return what the page says of a class or function; raises ValueError for a gap in it."""
    docs = _docs(thing)
    lines = [f"### {_name(thing)}", "", f"```text\n{_usage(thing)}\n```", "", docs.text]
    rows = [*_parameter_rows(thing, docs), *_attribute_rows(thing)]
    if rows:
        lines += ["", "| parameter, default | meaning |", "|---|---|", *rows]
    if docs.raises:
        lines += ["", "| raises | when |", "|---|---|"]
        lines += [f"| `{name}` | {_cell(text)} |" for name, text in docs.raises.items()]
    return "\n".join([*lines, ""])


def _name(thing: Any) -> str:
    owner, dot, name = thing.__qualname__.rpartition(".")
    return f"{OWNERS[owner]}.{name}" if dot else name


def _is_called(thing: Any) -> bool:
    """Whether a reader calls it: streams come from methods, abstract classes from subclasses."""
    return thing is not DataStream and not inspect.isabstract(thing)


def _parameters(thing: Any) -> list[inspect.Parameter]:
    parameters = inspect.signature(thing).parameters if _is_called(thing) else {}
    return [parameter for name, parameter in parameters.items() if name != "self"]


def _usage(thing: Any) -> str:
    """Return how it is called, wrapped where it is long."""
    if not _is_called(thing):
        return f"class {thing.__qualname__}"
    plain = [p.replace(annotation=p.empty, default=_default(p)) for p in _parameters(thing)]
    call = f"{_name(thing)}{inspect.Signature(plain)}"
    if len(call) <= WIDTH:
        return call
    inside = textwrap.fill(call.partition("(")[2][:-1], WIDTH - 4)
    return f"{_name(thing)}(\n{textwrap.indent(inside, '    ')}\n)"


def _parameter_rows(thing: Any, docs: Docs) -> Iterator[str]:
    own = dict(docs.args)
    of_all_methods = _docs(DataStream).args if _name(thing).startswith("stream.") else {}
    for parameter in _parameters(thing):
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        name = f"{stars.get(parameter.kind, '')}{parameter.name}"
        if name not in own:
            if name in of_all_methods:
                continue
            raise ValueError(f"the docstring of {_name(thing)} does not describe {name!r}")
        default = "" if parameter.default is parameter.empty else f"{_default(parameter)!r}"
        yield _row(name, default, own.pop(name))
    for name, text in own.items():  # what goes through **kwargs
        yield _row(name, "", text)


def _row(name: str, default: str, text: str) -> str:
    below = f"<br>`{default}`" if default else ""
    return f"| `{name}`{below} | {_cell(text)} |"


def _default(parameter: inspect.Parameter) -> Any:
    default = parameter.default
    is_class = isinstance(default, type) and default is not parameter.empty
    return _ClassName(default.__name__) if is_class else default


def _attribute_rows(thing: Any) -> Iterator[str]:
    """Yield the attributes of a class to derive from, each with the string that follows it."""
    if not inspect.isabstract(thing):
        return
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    statements = body.body if isinstance(body, ast.ClassDef) else []
    for one, after in itertools.pairwise(statements):
        if isinstance(one, ast.AnnAssign) and isinstance(after, ast.Expr):
            text = " ".join(ast.literal_eval(after.value).split())
            default = ast.unparse(one.value) if one.value else ""
            yield _row(ast.unparse(one.target), default, text)


def _docs(thing: Any) -> Docs:
    doc = inspect.cleandoc(thing.__doc__ or "") + "\n"
    docs = Docs(_markdown(_SECTION.sub("", doc).strip()), {}, {})
    for kind, body in _SECTION.findall(doc):
        entries = docs.args if kind == "Args" else docs.raises
        for names, text in _ENTRY.findall(textwrap.dedent(body)):
            entries |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return docs


def _markdown(text: str) -> str:
    """Return a docstring's text, its literal blocks as blocks of code."""
    parts = re.split(r"::\n\n((?:    .*\n|\n)+)", f"{text}\n")
    parts[::2] = map(_escaped, parts[::2])
    parts[1::2] = [
        f":\n\n```text\n{textwrap.dedent(code).strip()}\n```\n\n" for code in parts[1::2]
    ]
    return "".join(parts).strip()


def _cell(text: str) -> str:
    return _escaped(text).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Keep Markdown from taking a star for emphasis; code is left as it is."""
    parts = text.replace("``", "`").split("`")
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    return "`".join(parts)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
