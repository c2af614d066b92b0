"""EmbeddingFactory: embedding models by the name of their method.

A package adds a method by an entry point of the group ``sage.embedding_methods``: its name is the
method's, its object a subclass of EmbeddingModel, or anything callable that returns one::

    [project.entry-points."sage.embedding_methods"]
    my_method = "my_package.my_module:MyEmbedding"
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from sage.common.components.sage_embedding.embedding_model import EmbeddingModel
from sage.common.core.errors import nearest

GROUP = "sage.embedding_methods"

# Not entry points of this distribution: they are there in a source tree that is not installed too.
_BUILT_IN = {
    "hash": "sage.common.components.sage_embedding.hash_embedding:HashEmbedding",
    "hf": "sage.common.components.sage_embedding.hf_embedding:HFEmbedding",
    "openai": "sage.common.components.sage_embedding.openai_embedding:OpenAIEmbedding",
    "vllm": "sage.common.components.sage_embedding.vllm_embedding:VLLMEmbedding",
}


class EmbeddingFactory:
    """Makes embedding models; nothing of a method is imported before it is asked for."""

    @staticmethod
    def methods() -> list[str]:
        """Return the names of the methods, sorted."""
        return sorted(_entry_points())

    @staticmethod
    def create(method: str, **options: Any) -> EmbeddingModel:
        """Return a new embedding model; close it when done.

        Args:
            method: ``"hash"``, ``"hf"``, ``"openai"``, ``"vllm"``, or one of a plugin.
            options: arguments of the method's class.

        Raises:
            ValueError: an unknown method or option; the message names the nearest one.
            PackageNotInstalledError: what the method needs is not installed.
        """
        known = _entry_points()
        if method not in known:
            raise ValueError(
                f"unknown embedding method {method!r}; {nearest(str(method), list(known))}"
            )
        make = known[method].load()
        _check_options(method, make, options)
        model: EmbeddingModel = make(**options)
        return model


def get_embedding_model(method: str, **options: Any) -> EmbeddingModel:
    """Return a new embedding model; the same as ``EmbeddingFactory.create``."""
    return EmbeddingFactory.create(method, **options)


def _entry_points() -> dict[str, EntryPoint]:
    built_in = [EntryPoint(name, value, GROUP) for name, value in _BUILT_IN.items()]
    # Ours last: an installed package cannot take one of these names.
    return {point.name: point for point in [*entry_points(group=GROUP), *built_in]}


def _check_options(method: str, make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(make).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in options:
        if name not in parameters:
            raise ValueError(
                f"embedding method {method!r} has no option {name!r}; "
                f"{nearest(name, list(parameters))}"
            )
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise ValueError(f"embedding method {method!r} needs {name}=")
