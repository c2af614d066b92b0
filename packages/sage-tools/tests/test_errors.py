"""Every error of every package: its data, its words, and both again after pickling."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_vllm.fine_tuning import FineTuneRequest
from sage.common.components.sage_vllm.planning.memory_check import Fit
from sage.common.core.errors import SageError, Setting

PACKAGES = Path(__file__).parents[2]
REQUEST = FineTuneRequest(
    base_model="org/m",
    base_model_path=Path("/m"),
    dataset_paths=(Path("/d"),),
    output_dir=Path("/o"),
    strategy="lora",
    example_count=1,
)
FACTS: dict[str, Any] = {
    "details": {"reasoning": "..."},
    "finish_reason": "length",
    "first": None,
    "fit": Fit(problem="too large", settings=(Setting("engine.max_model_len", 8),)),
    "problem": "it did not work",
    "request": REQUEST,
}
BY_ANNOTATION: dict[str, Any] = {
    "Any": {"given": 1},
    "Path": Path("/p"),
    "bool": True,
    "float": 1.5,
    "int": 3,
    "list[str]": ["a", "b", "c", "d"],
    "object": "given",
    "str": "given",
    "tuple[str, ...]": ("a", "b", "c", "d"),
}


def every_error() -> Iterator[type[SageError]]:
    for source in sorted(PACKAGES.glob("*/src")):
        for path in sorted(source.rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            # Others are not imported: the fork server's would change vLLM for later tests.
            if "sage/core" not in str(path) and re.search(r"^class .*Error", text, re.MULTILINE):
                parts = path.relative_to(source).with_suffix("").parts
                module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
                for each in vars(module).values():
                    if (
                        isinstance(each, type)
                        and issubclass(each, SageError)
                        and each.__module__ == module.__name__
                    ):
                        yield each


def example(cls: type[SageError]) -> SageError:
    """An error of a class, its facts made up from the parameters that it cannot do without."""
    facts: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in FACTS:
            facts[name] = FACTS[name]
        elif parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD:
            facts[name] = BY_ANNOTATION[str(parameter.annotation).split(" | ")[0]]
    return cls(**facts)


ERRORS = list(every_error())


def test_all_of_them_are_found() -> None:
    assert len(ERRORS) == len(set(ERRORS)) > 45
    assert {each.__module__.split(".")[1] for each in ERRORS} == {
        "common", "kernel", "libs", "middleware", "tools",
    }  # fmt: skip


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_every_error_survives_pickling_with_its_type_words_and_facts(cls: type[SageError]) -> None:
    error = example(cls)
    error.add_note("in operator 'map'")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is cls
        assert (str(again), again.args) == (str(error), error.args)
        assert vars(again) == vars(error)
        assert (again.problem, again.hint) == (error.problem, error.hint)
        assert (again.option, again.value) == (error.option, error.value)
    assert str(error).startswith(error.problem)
    assert str(error).endswith(error.hint or error.problem)
    assert error.problem


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: f"{cls.__module__}.{cls.__name__}")
def test_no_error_has_words_of_its_own(cls: type[SageError]) -> None:
    assert cls.__str__ is SageError.__str__
    assert cls.hint is SageError.hint


def test_settings_lead_out_in_the_form_of_python() -> None:
    error = SageError("it is too large", option="engine.max_model_len", value=2048)
    assert str(error) == "it is too large; set engine={'max_model_len': 2048}"
    assert (error.option, error.value) == ("engine.max_model_len", 2048)
    error = SageError(
        "it is too large",
        hint="take a smaller one, or set",
        settings=(Setting("embedding_engine.max_model_len", 8, "or less"), Setting("allow_pickle")),
    )
    assert error.hint == (
        "take a smaller one, or set embedding_engine={'max_model_len': 8} or less "
        "or {'allow_pickle': ...}"
    )
    assert SageError("too short", hint="raise", option="sampling.max_tokens").hint == (
        "raise max_tokens"
    )
    assert (SageError("no").hint, SageError("no").option, str(SageError("no"))) == (
        None,
        None,
        "no",
    )
    assert str(SageError("It is not. Is it?", hint="Look.")) == "It is not. Is it? Look."


def test_a_form_without_a_word_for_a_setting_leaves_it_out_where_there_are_others() -> None:
    two = (Setting("engine.max_model_len", 8), Setting("engine.block_size", 16))
    error = SageError("no", settings=two)
    assert error.hint_with(lambda each: None if "block" in each.option else "X 8") == "set X 8"
    assert error.hint_with(lambda _: None) == error.hint
