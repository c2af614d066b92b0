"""Weights that a model's files leave out and that vLLM does not miss.

vLLM joins some weights into one, and notices a joined one only if all of its parts are missing; it
does not miss a head either. What is missing then keeps the bytes that happened to be in memory, and
the model answers with them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# Modules of one parent that vLLM joins.
_JOINED = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
)
_SHARED = {"k_proj", "v_proj"}  # some models take these from an earlier layer
_EXPERT = re.compile(r"(.*\.experts)\.(\d+)")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


def missing_tensors(
    config: Mapping[str, Any], names: Iterable[str], *, generates: bool, scores: bool = False
) -> list[str]:
    """Return names of modules whose weights are missing, as far as the others' names tell.

    A part of a joined weight is missing where another layer has the same modules, and that part;
    an expert, where one with a higher number is there. The head of a model that ``generates`` is
    missing where the configuration says that it is not the input's table too, that of one that
    ``scores`` where no module has a name as such heads have them.
    """
    modules = {name.rpartition(".")[0] for name in names}
    children: dict[str, set[str]] = defaultdict(set)
    for module in modules:
        parent, _, child = module.rpartition(".")
        children[parent].add(child)
    kinds: dict[str, set[frozenset[str]]] = defaultdict(set)
    for parent, own in children.items():
        kinds[_NUMBER.sub("*", parent)].add(frozenset(own))
    missing = [
        f"{parent}.{child}"
        for parent, own in children.items()
        for child in _lacking(own, kinds[_NUMBER.sub("*", parent)], config)
    ]
    missing += _missing_experts(children)
    if generates and _lacks_head(config, modules):
        missing.append("lm_head")
    if scores and modules and not any(map(_is_scoring_head, modules)):
        missing.append("score")
    return sorted(missing)


def _lacking(
    own: set[str], others: Iterable[frozenset[str]], config: Mapping[str, Any]
) -> Iterator[str]:
    for joined in map(set, _JOINED):
        lacking = joined - own
        if not lacking or lacking == joined or not any(own | lacking == other for other in others):
            continue
        shared = lacking == _SHARED or (lacking < _SHARED and config.get("attention_k_eq_v"))
        if not shared:
            yield from lacking


def _missing_experts(parents: Iterable[str]) -> Iterator[str]:
    numbers: dict[str, set[int]] = defaultdict(set)
    for parent in parents:
        if found := _EXPERT.fullmatch(parent):
            numbers[found[1]].add(int(found[2]))
    for experts, there in numbers.items():
        yield from (f"{experts}.{n}" for n in range(max(there)) if n not in there)


def _is_scoring_head(module: str) -> bool:
    return any(name in module for name in ("score", "classif", "v_head", "ranking", "reward"))


def _lacks_head(config: Mapping[str, Any], modules: set[str]) -> bool:
    if config.get("tie_word_embeddings") is not False or "model.embed_tokens" not in modules:
        return False
    return not any("head" in module or "output" in module for module in modules)
