"""Rows: a prompt has the tokens that it is served with, and what follows is trained to its stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from base_models import TEMPLATES

from sage.common.model_registry.vllm_registry import get_model_path
from sage.tuning.data.base_tokenizer import BaseTokenizer
from sage.tuning.data.rendering import Renderer, Row, UnfitExampleError, pieces

TURNS = [
    {"role": "user", "content": "What is 7 minus 3?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "And 9 minus 5?"},
    {"role": "assistant", "content": "<think>Count.</think>It is 4, too."},
]
SINGLE = [TURNS[0], TURNS[1]]
ENDING = [name for name in TEMPLATES if name != "endless"]


def tokenizer_of(root: Path, name: str) -> BaseTokenizer:
    return BaseTokenizer(name, get_model_path(name, root=root))


def texts(tokenizer: BaseTokenizer, row: Row) -> list[tuple[str, bool]]:
    return list(pieces(tokenizer, row))


@pytest.mark.parametrize("name", [*[f"base/{name}" for name in ENDING], "test/tiny"])
def test_prompts_are_those_of_transformers_and_answers_end_with_their_stop(
    name: str, root: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = tokenizer_of(root, name)
    theirs = AutoTokenizer.from_pretrained(tokenizer.folder, local_files_only=True)
    rows = Renderer(tokenizer).render({"messages": TURNS})
    asked = [TURNS[:1], TURNS[:3]]
    served = [
        theirs.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        for turns in asked
    ]
    spans = [(row, span) for row in rows for span in row.spans]
    assert len(spans) == 2
    for (row, (start, end)), prompt, turn in zip(spans, served, TURNS[1::2], strict=True):
        assert row.ids[:start] == prompt
        trained = tokenizer.text_of(row.ids[start:end]).strip()
        stop = TEMPLATES[name[5:]].stop if name != "test/tiny" else "<|end|>"
        assert trained == turn["content"] + stop
        assert tokenizer.answer_text(row.ids[start:end]).strip() == turn["content"]


def test_a_conversation_is_one_row_unless_the_template_drops_something(root: Path) -> None:
    assert len(Renderer(tokenizer_of(root, "base/chatml")).render({"messages": TURNS})) == 1
    thinking = [*TURNS[:1], {"role": "assistant", "content": "<think>So.</think>4."}, *TURNS[2:]]
    assert len(Renderer(tokenizer_of(root, "base/thinking")).render({"messages": thinking})) == 2


def test_an_answer_without_a_stop_is_refused_with_the_way_out(root: Path) -> None:
    with pytest.raises(UnfitExampleError, match=r"never learn to stop.*generation_config\.json"):
        Renderer(tokenizer_of(root, "base/endless")).render({"messages": SINGLE})


def test_what_is_trained_can_be_chosen(root: Path) -> None:
    tokenizer = tokenizer_of(root, "base/chatml")
    (last,) = Renderer(tokenizer, "last").render({"messages": TURNS})
    assert [text for text, trained in texts(tokenizer, last) if trained] == [
        "<think>Count.</think>It is 4, too.<|im_end|>"
    ]
    (whole,) = Renderer(tokenizer, "all").render({"messages": TURNS})
    assert whole.spans == ((0, len(whole.ids)),)
    skipped = [TURNS[0], {**TURNS[1], "train": False}, *TURNS[2:]]
    (row,) = Renderer(tokenizer).render({"messages": skipped})
    assert row.spans == last.spans
    nothing = [TURNS[0], {**TURNS[1], "weight": 0}]
    with pytest.raises(UnfitExampleError, match="no answer that is trained"):
        Renderer(tokenizer).render({"messages": nothing})


def test_texts_and_completions_end_with_the_stop_too(root: Path) -> None:
    tokenizer = tokenizer_of(root, "test/tiny")
    (row,) = Renderer(tokenizer).render({"prompt": "2 + 2 =", "completion": " 4"})
    assert texts(tokenizer, row) == [("2 + 2 =", False), (" 4<|end|>", True)]
    (row,) = Renderer(tokenizer).render({"text": "Once upon a time"})
    assert texts(tokenizer, row) == [("Once upon a time<|end|>", True)]
    (row,) = Renderer(tokenizer).render({"text": "Made by a template<|end|>"})
    assert texts(tokenizer, row) == [("Made by a template<|end|>", True)]


def test_a_preference_has_the_same_prompt_twice(root: Path) -> None:
    tokenizer = tokenizer_of(root, "test/tiny")
    example = {"prompt": SINGLE[:1], "chosen": "4.", "rejected": "It is 4."}
    chosen, rejected = Renderer(tokenizer).render_pair(example)
    assert chosen.prompt == rejected.prompt
    assert tokenizer.answer_text(chosen.ids[chosen.spans[0][0] :]) == "4."
    whole = {"chosen": [*SINGLE[:1], {"role": "assistant", "content": "4."}], "rejected": SINGLE}
    assert Renderer(tokenizer).render_pair(whole) == (chosen, rejected)
    with pytest.raises(UnfitExampleError, match="same answer chosen and rejected"):
        Renderer(tokenizer).render_pair({**example, "rejected": "4."})


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ({"messages": TURNS[:1]}, "no turn of the assistant"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "unknown role 'robot' in turn 1"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": None}]}, "content in turn 2"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": ""}]}, "an empty answer"),
        (
            {"messages": [TURNS[0], {"role": "assistant", "content": "4<|end|>5"}]},
            "special token '<|end|>' within its turn 2",
        ),
        ({"prompt": "x", "completion": ""}, "empty completion"),
        ({"text": ""}, "empty text"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    example: dict[str, Any], said: str, root: Path
) -> None:
    with pytest.raises(UnfitExampleError) as raised:
        Renderer(tokenizer_of(root, "test/tiny")).render(example)
    assert said in str(raised.value)


def test_what_the_template_refuses_is_told_in_its_words(root: Path) -> None:
    twice = [TURNS[0], TURNS[0], TURNS[1]]
    with pytest.raises(UnfitExampleError, match="chat template: roles must alternate"):
        Renderer(tokenizer_of(root, "base/mistral")).render({"messages": twice})
