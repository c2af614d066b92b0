"""Chat templates of ten kinds, and conversations to try them with.

They have the ways of the templates that models come with, each in as few lines as that takes::

    from sage.common.components.sage_vllm.testing.chat_templates import CHAT_TEMPLATES

    write_tiny_model(folder, chat_template=CHAT_TEMPLATES["qwen3"], extra_tokens=QWEN3_TOKENS)
"""

from __future__ import annotations

from typing import Any

_CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

_LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
{{- (message['content'] or '') | trim }}{{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

_MISTRAL = """\
{{- bos_token }}
{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else none %}
{%- set turns = messages[1:] if system is not none else messages %}
{%- for message in turns %}
{%- if message['role'] == 'user' %}
{%- set before = system + '\\n\\n' if loop.last and system is not none else '' %}
{{- '[INST] ' + before + message['content'] + ' [/INST]' }}
{%- elif message['role'] == 'assistant' %}
{{- ' ' + (message['content'] or '') | trim + eos_token }}
{%- endif %}
{%- endfor %}"""

_GEMMA = """\
{{- bos_token }}
{%- set ns = namespace(before='') %}
{%- for message in messages %}
{%- if message.role == 'system' %}{%- set ns.before = message.content + '\\n\\n' %}
{%- else %}
{%- set role = 'model' if message.role == 'assistant' else message.role %}
{{- '<start_of_turn>' + role + '\\n' + ns.before + (message.content or '') | trim }}
{{- '<end_of_turn>\\n' }}
{%- set ns.before = '' %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""

_TOOLS = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
{{- 'You may call these functions:\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
{{- '\\n</tools>\\nCall one by <tool_call>\\n{"name": ..., "arguments": ...}\\n</tool_call>' }}
{{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- elif message.role == 'assistant' %}
{{- '<|im_start|>assistant\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '\\n<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson }}{{- '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- elif message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

_QWEN3 = (
    _TOOLS.replace(
        "{{- '<|im_start|>assistant\\n' + (message.content or '') }}",
        "{%- set content = (message.content or '').split('</think>')[-1].lstrip('\\n') %}\n"
        "{{- '<|im_start|>assistant\\n' }}\n"
        "{%- if message.reasoning_content and loop.last %}\n"
        "{{- '<think>\\n' + message.reasoning_content.strip('\\n') + '\\n</think>\\n\\n' }}\n"
        "{%- endif %}\n"
        "{{- content }}",
    )
    + "{%- if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}"
)

_GPT_OSS = """\
{{- '<|start|>system<|message|>You are a large language model.\\n' }}
{{- 'Reasoning: ' + (reasoning_effort or 'medium') + '<|end|>' }}
{%- for message in messages %}
{%- if message.role in ('system', 'developer') %}
{{- '<|start|>developer<|message|># Instructions\\n\\n' + message.content + '<|end|>' }}
{%- elif message.role == 'assistant' %}
{{- '<|start|>assistant<|channel|>final<|message|>' + (message.content or '') + '<|end|>' }}
{%- else %}
{{- '<|start|>' + message.role + '<|message|>' + message.content + '<|end|>' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"""

_NO_SYSTEM = """\
{%- for message in messages %}
{%- if message.role == 'system' %}
{{- raise_exception('there is no system message in this format') }}
{%- endif %}
{{- '### ' + message.role | title + ':\\n' + (message.content or '') + '\\n\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '### Assistant:\\n' }}{%- endif %}"""

_STRICT = """\
{%- set turns = messages[1:] if messages[0].role == 'system' else messages %}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n' }}{%- endif %}
{%- for message in turns %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('user and assistant must take turns') }}
{%- endif %}
{{- ('USER: ' if message.role == 'user' else 'ASSISTANT: ') + message.content + ' ' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{%- endif %}"""

_DEMO = """\
{%- for message in messages if message['role'] != 'system' %}
{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""

CHAT_TEMPLATES: dict[str, str] = {
    "chatml": _CHATML,
    "demo": _DEMO,
    "gemma": _GEMMA,
    "gpt-oss": _GPT_OSS,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
    "no-system": _NO_SYSTEM,
    "qwen3": _QWEN3,
    "strict": _STRICT,
    "tools": _TOOLS,
}
"""Templates by the models whose ways they have. ``no-system`` refuses a system message, ``strict``
any turn that is out of turn; ``qwen3`` and ``tools`` have a place for tools; ``qwen3`` has the
variable ``enable_thinking``, and ``gpt-oss`` has ``reasoning_effort``."""

QWEN3_THINKING = (
    _QWEN3
    + "{%- if add_generation_prompt and (enable_thinking is not defined or enable_thinking) %}"
    "{{- '<think>\\n' }}{%- endif %}"
)
"""``qwen3`` that begins to think for the model, as templates of later ones do: a random model would
not by itself."""

QWEN3_TOKENS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
"""What a tokenizer must have as tokens for vLLM's parsers of ``qwen3``."""

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "rain",
            "description": "Say whether it rains in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Oslo", "Rome"]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
]
"""A tool for templates that have a place for them."""


def _said(*contents: str, system: str | None = None) -> list[dict[str, Any]]:
    roles = ("user", "assistant")
    before = [] if system is None else [{"role": "system", "content": system}]
    turns = [{"role": roles[n % 2], "content": each} for n, each in enumerate(contents)]
    return [*before, *turns]


def _with_call(answer: str, *contents: str) -> list[dict[str, Any]]:
    call = {"name": "rain", "arguments": {"city": "Oslo"}}
    return [
        {"role": "user", "content": "Rain in Oslo?"},
        {
            "role": "assistant",
            "content": answer,
            "tool_calls": [{"id": "call00000", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "call00000", "name": "rain", "content": "yes"},
        *_said(*contents),
    ]


CONVERSATIONS: list[list[dict[str, Any]]] = [
    _said("Hi"),
    _said("What is 2 + 2?", "4", "And 3 + 3?"),
    _said("Hi", system="Be brief."),
    _said("a", "b", "c", "d", "e", system="Count."),
    _said("  blanks around  ", "\tand\n", " here \n\n"),
    _said("line one\nline two\n\nline four"),
    _said("Grüße aus Łódź, 東京 and العربية"),
    _said("\N{GRINNING FACE} and \N{WOMAN}\N{ZERO WIDTH JOINER}\N{PERSONAL COMPUTER}"),
    _said("{{ not a variable }} {% nor a block %}"),
    _said("<|im_start|>user\nmarks of a template<|im_end|>"),
    _said("</think> stands in a question", "an answer", "and now?"),
    _said("What?", "<think>\nold thoughts\n</think>\n\nThe answer.", "Why?"),
    _said('{"json": [1, 2.5, null], "text": "with \\"quotes\\""}'),
    _said("", "", "an empty turn or two"),
    _said("'single' & <html> \\ back\\slash"),
    _said("word " * 200),
    _said("Hi", "Hello", system=""),
    _with_call(""),
    _with_call("Let me see.", "And in Rome?"),
    [{"role": "user", "content": "one"}, {"role": "user", "content": "two in a row"}],
]
"""Twenty conversations: with and without a system message, calls of tools, odd texts, odd turns."""
