"""Which of vLLM's parsers reads the answers of a model.

vLLM leaves the choice to whoever starts its server. Here it is made by what the chat template
shows of a model's ways: a template was trained with, and models that are tuned from others keep it.
"""

from __future__ import annotations

from typing import Any

from sage.common.components.sage_vllm.backend.chat.chat_format import variables_of
from sage.common.components.sage_vllm.backend.vllm_types import VllmConfig
from sage.common.components.sage_vllm.errors import InvalidOptionError
from sage.common.core.errors import nearest

_DEEPSEEK_CALLS = "<\uff5ctool\u2581calls\u2581begin\uff5c>"  # its bars and blanks are no ASCII
_TOOL_PARSERS = (
    (("<arg_key>",), "glm45"),
    (("<seed:tool_call>",), "seed_oss"),
    (("<minimax:tool_call>",), "minimax_m2"),
    (("<tool_call>", "<function="), "qwen3_coder"),
    (("<tool_call>",), "hermes"),
    (("[TOOL_CALLS]",), "mistral"),
    ((_DEEPSEEK_CALLS, "```json"), "deepseek_v3"),
    ((_DEEPSEEK_CALLS,), "deepseek_v31"),
    (("<|tool_calls_section_begin|>",), "kimi_k2"),
    (("<|tool|>",), "phi4_mini_json"),
    (("<|tool_call|>",), "granite"),
    (("<|python_start|>",), "llama4_pythonic"),
    (("func_name1(params_name1",), "pythonic"),
    (('"parameters": dictionary of argument name',), "llama3_json"),
    (("<|python_tag|>",), "llama3_json"),
)
"""What all must stand in a template, and the parser of models that have it; the first that fits."""


def tool_parser_of(template: str) -> str | None:
    """Return the name of the parser for a model's calls of tools, None if none is known."""
    return next(
        (name for marks, name in _TOOL_PARSERS if all(mark in template for mark in marks)), None
    )


def reasoning_parser_of(template: str, prompt: str) -> str | None:
    """Return the name of the parser for what a model thinks, None for one that does not.

    ``prompt`` is what the template makes of a question.
    """
    if "<seed:think>" in template:
        return "seed_oss"
    if "<think>" not in template:
        return None
    if "<arg_key>" in template:
        return "glm45"
    variables = variables_of(template)
    if "enable_thinking" in variables:
        return "qwen3"
    if "thinking" in variables:
        return "deepseek_v3"
    # Others only take the thinking out of earlier answers, and do not think themselves.
    return "deepseek_r1" if prompt.rstrip().endswith("<think>") else None


def check_tool_parser(name: object) -> None:
    """Raise InvalidOptionError for a parser that vLLM does not have."""
    if name is None:
        return
    from vllm.tool_parsers import ToolParserManager

    known = sorted({*ToolParserManager.lazy_parsers, *ToolParserManager.tool_parsers})
    if name not in known:
        problem = f"vLLM has no tool call parser {name!r}"
        hint = nearest(str(name), known)
        raise InvalidOptionError("tool_call_parser", name, problem, hint=hint)


def choose_reasoning_parser(config: VllmConfig) -> None:
    """Have an engine that is about to be built know how its model thinks, if it does.

    Nothing is changed for a model without a template, or whose tokenizer lacks the parser's marks.
    """
    from vllm.config.reasoning import ReasoningConfig
    from vllm.renderers.hf import HfTokenizer, resolve_chat_template
    from vllm.tokenizers import cached_tokenizer_from_config

    model_config: Any = config.model_config
    if config.structured_outputs_config.reasoning_parser or model_config.skip_tokenizer_init:
        return  # vLLM knows it by itself
    tokenizer = cached_tokenizer_from_config(model_config)
    if not isinstance(tokenizer, HfTokenizer):
        return
    template = resolve_chat_template(tokenizer, None, None, model_config=model_config)
    if template is None:
        return
    name = reasoning_parser_of(template, _question(tokenizer, template))
    if name is None:
        return
    reasoning = ReasoningConfig(reasoning_parser=name)
    try:
        reasoning.initialize_token_ids(model_config)
    except (RuntimeError, ValueError):  # the tokenizer has no such tokens
        return
    config.structured_outputs_config.reasoning_parser = name
    if reasoning.enabled:
        config.reasoning_config = reasoning


def _question(tokenizer: Any, template: str) -> str:
    """Return what a template makes of a question; "" of one that accepts none."""
    question = [{"role": "user", "content": "?"}]
    try:
        text = tokenizer.apply_chat_template(
            question, chat_template=template, tokenize=False, add_generation_prompt=True
        )
    except Exception:  # noqa: BLE001 - a template may raise whatever it likes
        return ""
    return str(text)
