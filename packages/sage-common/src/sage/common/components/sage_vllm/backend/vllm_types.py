"""What is used of vLLM's objects, as types: a checker that does not read vLLM sees only Any.

What goes from one part of vLLM to another, and is only passed on here, is ``Any``: rendered
prompts, sampling and pooling parameters, LoRA requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from copy import copy
from dataclasses import dataclass
from queue import Queue
from threading import Thread
from typing import Any, ClassVar, NamedTuple, Protocol


class RenderedText(NamedTuple):
    """A text or a pair as an engine takes it, and whether it was truncated.

    ``second_at`` is the token that the second text of a pair begins with, for models that must be
    told.
    """

    input: Any
    truncated: bool
    second_at: int | None = None

    def params(self, params: Any) -> Any:
        """Return the PoolingParams that go with it; those given where there is nothing to tell."""
        if self.second_at is None:
            return params
        told = copy(params)
        told.extra_kwargs = {"compressed_token_type_ids": self.second_at}
        return told


class TokenizeParams(Protocol):
    """``vllm.renderers.TokenizeParams``, a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    max_total_tokens: int | None
    do_lower_case: bool

    def apply_pre_tokenization(self, tokenizer: Any, prompt: dict[str, Any]) -> dict[str, Any]:
        """Refuse a prompt with too many characters to be tokenised at all."""
        ...

    def get_encode_kwargs(self) -> dict[str, Any]:
        """Return what the tokenizer is called with."""
        ...


class Renderer(Protocol):
    """``vllm.renderers.BaseRenderer``."""

    mm_processor: Any
    default_cmpl_tok_params: TokenizeParams
    default_chat_tok_params: TokenizeParams

    def get_eos_token_id(self) -> int | None:
        """Return the token that ends a text."""
        ...

    def get_tokenizer(self) -> Any:
        """Return the model's tokenizer, of transformers' or of its own kind."""
        ...

    def render_cmpl(self, prompts: Sequence[Any], **arguments: Any) -> list[Any]:
        """Tokenise prompts that are texts, or check those that are tokens."""
        ...

    def render_messages(self, messages: list[Any], params: Any) -> tuple[Any, dict[str, Any]]:
        """Make a text of a conversation; returns the conversation as it was read, and the text."""
        ...

    def render_chat(
        self, conversations: Sequence[Any], params: Any, **arguments: Any
    ) -> tuple[Any, list[Any]]:
        """Make texts of conversations and tokenise them; returns both."""
        ...


class ModelConfig(Protocol):
    """``vllm.config.ModelConfig``."""

    dtype: Any
    hf_config: Any
    max_model_len: int
    multimodal_config: Any
    quantization: str | None
    runner_type: str
    use_sep_token: bool

    def get_vocab_size(self) -> int:
        """Return how many tokens the model knows."""
        ...

    def get_diff_sampling_param(self) -> dict[str, Any]:
        """Return the sampling options that the model's generation_config.json sets."""
        ...


class LoRAConfig(Protocol):
    """``vllm.config.LoRAConfig``."""

    max_lora_rank: int


class SchedulerConfig(Protocol):
    """``vllm.config.SchedulerConfig``."""

    max_num_seqs: int


class DeviceConfig(Protocol):
    """``vllm.config.DeviceConfig``."""

    device_type: str


class VllmConfig(Protocol):
    """``vllm.config.VllmConfig``: all that an engine is built from."""

    device_config: DeviceConfig
    model_config: ModelConfig
    scheduler_config: SchedulerConfig
    lora_config: LoRAConfig | None
    structured_outputs_config: Any
    speculative_config: Any
    reasoning_config: Any


class EngineCoreClient(Protocol):
    """``vllm.v1.engine.core_client.SyncMPClient``; of an inline engine, ``shutdown`` alone."""

    resources: Any
    outputs_queue: Queue[Any]
    utility_results: Mapping[int, Future[Any]]
    output_queue_thread: Thread
    ctx: Any

    def shutdown(self) -> None:
        """End the engine's process, or free an inline engine's memory."""
        ...


class LLMEngine(Protocol):
    """``vllm.v1.engine.llm_engine.LLMEngine``."""

    engine_core: EngineCoreClient
    input_processor: Any
    logger_manager: Any
    model_config: ModelConfig
    renderer: Renderer
    vllm_config: VllmConfig

    def get_supported_tasks(self) -> tuple[Any, ...]:
        """Return what the model is for."""
        ...

    def add_request(self, request_id: str, prompt: Any, params: Any, **arguments: Any) -> Any:
        """Queue a rendered request."""
        ...

    def abort_request(self, request_ids: Sequence[str]) -> None:
        """Drop requests."""
        ...

    def step(self) -> list[Any]:
        """Run one step; return its RequestOutputs or PoolingRequestOutputs."""
        ...

    def add_lora(self, lora_request: Any) -> bool:
        """Load an adapter."""
        ...

    def collective_rpc(self, method: Any) -> list[Any]:
        """Call a function with each worker."""
        ...


@dataclass(frozen=True, kw_only=True)
class VLLMClasses:
    """The classes and functions of vLLM that requests are made with."""

    ChatParams: type[Any]
    ChatTemplateResolutionError: type[Exception]
    HfRenderer: type[Any]
    LoRARequest: type[Any]
    ImageMediaIO: type[Any]
    RepetitionDetectionParams: type[Any]
    lora_ranks: tuple[int, ...]
    """What an engine's ``max_lora_rank`` may be."""
    RequestOutputKind: Any
    SamplingParams: type[Any]
    SharedPoolingParams: type[Any]
    StructuredOutputsParams: type[Any]
    parse_model_prompt: Any
    resolve_chat_template: Any
    safe_apply_chat_template: Any
    refusals: tuple[type[Exception], ...]
    """What vLLM raises where a request is not in order."""
