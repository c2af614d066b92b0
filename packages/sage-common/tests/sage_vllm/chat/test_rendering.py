"""What a model sees of a conversation: byte for byte what transformers makes of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from sage.common.components.sage_vllm.backend.chat.chat_format import ChatFormat
from sage.common.components.sage_vllm.errors import InvalidRequestError
from sage.common.components.sage_vllm.requests.chat.messages import in_openai_form
from sage.common.components.sage_vllm.testing.chat_templates import (
    CHAT_TEMPLATES,
    CONVERSATIONS,
    TOOLS,
)

WAYS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    *((name, {}, {}) for name in sorted(CHAT_TEMPLATES)),
    ("qwen3", {"thinking": True}, {"enable_thinking": True}),
    ("qwen3", {"thinking": False}, {"enable_thinking": False}),
    ("qwen3", {"tools": TOOLS}, {"tools": TOOLS}),
    ("tools", {"tools": TOOLS}, {"tools": TOOLS}),
    (
        "gpt-oss",
        {"template_options": {"reasoning_effort": "high"}},
        {"reasoning_effort": "high"},
    ),
]


def outcome(render: Callable[[], str]) -> tuple[str | None, str]:
    """Return a prompt, or why there is none."""
    try:
        return render(), ""
    except Exception as error:  # noqa: BLE001 - whatever the template raises
        return None, str(error)


@pytest.mark.parametrize(("name", "options", "variables"), WAYS)
def test_a_prompt_equals_what_transformers_makes_of_it(
    chat_format: ChatFormat,
    tokenizer: Any,
    name: str,
    options: dict[str, Any],
    variables: dict[str, Any],
) -> None:
    template, refused = CHAT_TEMPLATES[name], 0
    assert len(CONVERSATIONS) == 20
    options = {**options, "chat_template": template}
    for conversation in CONVERSATIONS:
        expected, theirs = outcome(
            partial(
                tokenizer.apply_chat_template,
                conversation,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
                **variables,
            )
        )
        text, ours = outcome(partial(chat_format.text, conversation, options))
        assert text == expected
        assert theirs in ours  # the template refuses it, in these words
        refused += text is None
    assert refused == {"no-system": 3, "strict": 3}.get(name, 0)


def test_the_last_message_is_continued(chat_format: ChatFormat, tokenizer: Any) -> None:
    conversation = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "1, 2"}]
    template = CHAT_TEMPLATES["chatml"]
    text = chat_format.text(
        conversation, {"chat_template": template, "continue_final_message": True}
    )
    assert text.endswith("<|im_start|>assistant\n1, 2")
    assert text == tokenizer.apply_chat_template(
        conversation, chat_template=template, tokenize=False, continue_final_message=True
    )


def test_calls_and_thoughts_may_have_our_form(chat_format: ChatFormat) -> None:
    ours = [
        {"role": "user", "content": "Rain in Oslo?"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [{"id": "call00000", "name": "rain", "arguments": {"city": "Oslo"}}],
        },
        {"role": "tool", "tool_call_id": "call00000", "name": "rain", "content": "yes"},
    ]
    (theirs,) = (each for each in CONVERSATIONS if each[0]["content"] == "Rain in Oslo?"
                 and len(each) == 3)  # fmt: skip
    options = {"chat_template": CHAT_TEMPLATES["tools"], "tools": TOOLS}
    assert chat_format.text(in_openai_form(ours), options) == chat_format.text(theirs, options)
    assert in_openai_form(ours)[1]["reasoning"] == "hm"


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("chatml", {"thinking": True}, r"turned on.*no variable for that; those.*\(none\)"),
        ("gpt-oss", {"thinking": False}, "turned off.*those that it has: reasoning_effort"),
        ("qwen3", {"template_options": {"enable_thinkin": 1}}, "did you mean 'enable_thinking'"),
        ("qwen3", {"template_options": {"messages": []}}, "cannot set 'messages'; pass a conv"),
        (
            "qwen3",
            {"template_options": {"enable_thinking": True}, "thinking": False},
            "thinking=False and template_options.*contradict",
        ),
        ("chatml", {"tools": TOOLS}, "no place for tools; take a model that was trained"),
    ],
)
def test_what_a_template_does_not_have_is_refused(
    chat_format: ChatFormat, name: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        chat_format.text(CONVERSATIONS[0], {**options, "chat_template": CHAT_TEMPLATES[name]})


def test_a_template_is_named_or_written_out(chat_format: ChatFormat) -> None:
    says = "has no chat template 'chatmil'; valid: default"
    with pytest.raises(InvalidRequestError, match=says):
        chat_format.text(CONVERSATIONS[0], {"chat_template": "chatmil"})
    text = chat_format.text(CONVERSATIONS[0], {"chat_template": "{{ messages[0].content }}!"})
    assert text == "Hi!"
    assert chat_format.text(CONVERSATIONS[0], {}) == chat_format.text(
        CONVERSATIONS[0], {"chat_template": "default"}
    )
