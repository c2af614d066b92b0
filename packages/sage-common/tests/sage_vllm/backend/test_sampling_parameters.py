"""Our table of sampling options against vLLM's own parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from vllm import SamplingParams
from vllm.sampling_params import RepetitionDetectionParams, StructuredOutputsParams

from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.components.sage_vllm.requests.sampling_options import (
    INSTEAD,
    REQUEST_OPTIONS,
    SAMPLING_OPTIONS,
    STRUCTURE_OPTIONS,
    check_sampling_options,
)

NOT_OFFERED = {
    *INSTEAD,
    "output_text_buffer_length",  # vLLM's own notes from here on
    "skip_clone",
}
OF_ENGINES = {"disable_additional_properties", "disable_any_whitespace", "whitespace_pattern"}
VALUES: dict[type, Any] = {
    int: 1,
    float: 0.5,
    bool: True,
    str: "text",
    list[str]: ["text"],
    list[int]: [1],
    dict[int, float]: {1: 0.5},
    dict[str, Any]: {"name": 1},
    RepetitionDetectionParams: {"max_pattern_size": 4, "min_count": 3},
}


def of_vllm() -> set[str]:
    return {name for name in SamplingParams.__struct_fields__ if not name.startswith("_")}


def test_all_of_vllms_parameters_are_offered_or_left_out_for_a_reason() -> None:
    ours = SAMPLING_OPTIONS - STRUCTURE_OPTIONS.keys() - REQUEST_OPTIONS
    assert ours | NOT_OFFERED == of_vllm()
    assert not ours & NOT_OFFERED


def test_the_structures_are_vllms() -> None:
    fields = StructuredOutputsParams.__dataclass_fields__
    known = {name for name in fields if not name.startswith("_")}
    assert set(STRUCTURE_OPTIONS.values()) == known - OF_ENGINES


def offered() -> Iterator[tuple[str, object]]:
    for field in msgspec.structs.fields(SamplingParams):
        if field.name in SAMPLING_OPTIONS:
            arms = getattr(field.type, "__args__", ()) if "|" in str(field.type) else (field.type,)
            for arm in arms or (field.type,):
                if arm is not type(None):
                    yield field.name, VALUES[arm]


@pytest.mark.parametrize(("name", "value"), list(offered()), ids=str)
def test_an_option_takes_what_vllms_parameter_takes(name: str, value: object) -> None:
    check_sampling_options({name: value}, "options")
    SamplingParams(**{"max_tokens": 4, "temperature": 0.5, name: value})
    with pytest.raises(ValueError, match=name):
        check_sampling_options({name: object()}, "options")


@pytest.mark.parametrize("name", sorted(INSTEAD))
def test_what_is_no_option_says_what_to_do_instead(name: str) -> None:
    with pytest.raises(InvalidOptionError) as caught:
        check_sampling_options({name: 1}, "options")
    assert caught.value.hint == INSTEAD[name]
