"""Engine: the narrow seam between the service and whatever generates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

from sage.common.components.sage_vllm.engine_stats import EngineStats
from sage.common.components.sage_vllm.tokens import TokenIds, TokenLogprob

Message = Mapping[str, Any]
"""One turn of a conversation: ``{"role": ..., "content": ...}``."""

Prompt = str | TokenIds | Sequence[Message]
"""A text, its tokens, or a conversation that goes through the model's chat template."""

EngineMode = Literal["auto", "inline", "process"]


TextPair = tuple[str, str]
"""A query, and a text to score for it."""


class Role(StrEnum):
    """What an engine is for: one of them, never two. Each of its names is a property here.

    An engine with the role ``score`` has a head over classes: it scores pairs of texts (a
    reranker), classifies texts, or says how good a conversation is (a reward model).
    """

    GENERATE = "generate"
    EMBED = "embed"
    SCORE = "score"

    @property
    def option(self) -> str:
        """The key of a service's configuration for the engine's options."""
        return "engine" if self is Role.GENERATE else f"{self.label}_engine"

    @property
    def model_option(self) -> str:
        """The key of a service's configuration for the model's id."""
        return "model_id" if self is Role.GENERATE else f"{self.label}_model_id"

    @property
    def label(self) -> str:
        """Its name in health and metrics: ``"text"``, ``"embedding"`` or ``"scoring"``."""
        return {Role.GENERATE: "text", Role.EMBED: "embedding", Role.SCORE: "scoring"}[self]

    @classmethod
    def of_tags(cls, tags: Mapping[str, Any]) -> Role:
        """Return what a model of the registry is loaded for unless one says otherwise."""
        roles = {"embedding": cls.EMBED, "classification": cls.SCORE, "reward": cls.SCORE}
        return roles.get(str(tags.get("type")), cls.GENERATE)


EngineState = Literal["ready", "degraded", "recovering", "failed", "closed"]
"""Degraded are replicas of which some are being built again, while the others serve."""

OnText = Callable[[str], None]
"""Takes each piece of a text as it is generated, on the engine's own thread: it must not block.
What the model thinks before its answer comes as pieces that are Reasoning."""


class Reasoning(str):
    """A piece of text that is the model's thinking, not its answer."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class EngineSpec:
    """What an engine is built from.

    ``path`` is the model's folder, ``arguments`` are the engine's own (vLLM's EngineArgs). An
    engine generates or embeds, never both. ``allow_pickle`` lets it load weights that can run code.
    ``option`` is where a configuration has the arguments, for errors. ``memory_limit`` is how many
    bytes of its device it may use, None for all that is free; it makes no other engine.
    ``replicas`` is how many engines serve the model together, ``"auto"`` as many as there are
    devices for. ``variables`` of the environment say which of them an engine in a process of its
    own may use.
    """

    model_id: str
    path: Path
    role: Role = Role.GENERATE
    mode: EngineMode = "auto"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    allow_pickle: bool = False
    option: str = field(default="", compare=False)
    memory_limit: int | None = field(default=None, compare=False)
    replicas: int | Literal["auto"] = 1
    variables: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.option:
            object.__setattr__(self, "option", Role(self.role).option)
        object.__setattr__(self, "role", Role(self.role))  # also of its name, "generate" or "embed"


@dataclass(frozen=True, kw_only=True)
class LoraAdapter:
    """A LoRA adapter of the registry.

    ``name`` is its id, ``rank`` the largest of its matrices', ``base`` what it says that it was
    trained on: the id of a model or a folder, None if it says nothing.
    """

    name: str
    commit: str
    path: Path
    rank: int
    base: str | None = None


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """What a running engine says of itself; lengths are in tokens, ``start_seconds`` in seconds.

    ``max_model_len`` is the longest sequence of the engine, ``model_max_len`` that of the model,
    None if nobody says. ``memory_bytes`` is the device memory that it was estimated to need, 0 if
    that is not known.
    ``chat_templates`` names the templates that make a text of a conversation; a single one without
    a name is ``"default"``, and without any the model takes no conversations.
    ``chat_marks`` are the added tokens that these write, such as ``<|im_start|>``: a text with
    none of them has not been through one. None where a text needs no template to be answered.
    ``modalities`` are what its prompts may have beside texts: ``"image"``.
    ``prompts`` are what an embedding model may see before a text, by their names; the one that
    ``default_prompt`` names stands before each text that is embedded without naming one.
    ``classes`` are the names of what a model with a head tells apart, in the order of its numbers;
    a single one is a score, and a model without a head has none.
    ``version`` is that of the engine's library, ``device`` the kind that it runs on.
    """

    model_id: str
    mode: Literal["inline", "process"]
    dtype: str
    max_model_len: int
    model_max_len: int | None = None
    max_batch_size: int
    start_seconds: float
    memory_bytes: int = 0
    chat_templates: tuple[str, ...] = ()
    chat_marks: tuple[str, ...] | None = None
    modalities: tuple[str, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    classes: tuple[str, ...] = ()
    quantization: str | None = None
    version: str = ""
    device: str = ""


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call that a model asks for; arguments that are no JSON object stay the text they are."""

    id: str
    name: str
    arguments: Mapping[str, Any] | str


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One generated text.

    ``finish_reason`` is ``"stop"``, ``"length"``, ``"repetition"``, ``"deadline"`` or
    ``"tool_calls"``. ``logprobs`` has an entry per token where they were asked for.
    ``reasoning_token_count`` is None for a model that does not think, ``tool_calls`` for a request
    that offered no tools.
    """

    text: str
    finish_reason: str
    token_count: int
    logprobs: Sequence[TokenLogprob] | None = None
    reasoning: str | None = None
    reasoning_token_count: int | None = None
    tool_calls: Sequence[ToolCall] | None = None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """The result of one request; ``latency`` is seconds from submission to the last token.

    ``cached`` says that it was not generated now, but kept from an equal request.
    ``prompt_token_ids`` are the prompt's tokens, where the engine has any. ``prompt_logprobs`` has
    an entry for each of them where they were asked for, None for the first: nothing is before it.
    """

    request_id: str
    prompt_token_count: int
    completions: Sequence[Completion]
    latency: float
    cached: bool = False
    prompt_token_ids: Sequence[int] = ()
    prompt_logprobs: Sequence[TokenLogprob | None] | None = None


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """The vector of one text, as the model's pooler gives it.

    ``truncated`` says that only the beginning of the text was embedded, ``cached`` that it was not
    embedded now, but kept from before.
    """

    vector: Sequence[float]
    token_count: int
    truncated: bool = False
    cached: bool = False


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What a model's head says of one input: a number for each of EngineInfo's ``classes``.

    ``truncated`` says that only a part of the input was read.
    """

    values: Sequence[float]
    token_count: int
    truncated: bool = False


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """The log-probability of each continuation of one prompt, and the tokens of prompt and all."""

    logprobs: Sequence[float]
    token_count: int


class Engine(Protocol):
    """A running engine. Thread-safe; its constructor returns when it is ready."""

    @property
    def info(self) -> EngineInfo:
        """What was built."""
        ...

    @property
    def state(self) -> EngineState:
        """Whether it takes requests; while it recovers, requests wait."""
        ...

    def submit(
        self, prompt: Prompt, options: Mapping[str, Any], on_text: OnText | None = None
    ) -> Future[Generation]:
        """Start a generation. Cancelling the Future aborts it and frees what it holds.

        ``options`` are those of sampling_options, ``lora`` as a LoraAdapter. What is wrong
        with prompt or options is the Future's InvalidRequestError or raised at once;
        EngineClosedError, EngineDeadError and PoisonRequestError likewise.
        """
        ...

    def embed(
        self,
        text: str,
        *,
        normalize: bool,
        dimensions: int | None = None,
        truncate: bool = False,
        cache: Any = None,
    ) -> Future[Embedding]:
        """Start an embedding; Future and errors as of ``submit``.

        ``truncate`` embeds the beginning of a text that is too long, where it would be refused.
        ``cache`` is a ResultCache that may have the vector, or is to keep it.
        """
        ...

    def classify(
        self,
        given: Prompt | TextPair,
        *,
        activation: bool,
        truncate: bool = False,
        chat_template: str | None = None,
    ) -> Future[Classification]:
        """Start reading what a model's head says of a text, a pair or a conversation.

        Future and errors as of ``submit``. Without ``activation`` the numbers are the head's own.
        ``truncate`` reads the beginning of what is too long, where it would be refused.
        ``chat_template`` is Jinja that makes one text of a pair.
        """
        ...

    def read_likelihood(
        self,
        prompt: Prompt,
        continuations: Sequence[str],
        *,
        chat_template: str | None = None,
        lora: LoraAdapter | None = None,
    ) -> Future[Likelihood]:
        """Start reading how likely each text is to follow a prompt; as of ``submit``.

        Nothing is generated: one step of the engine reads them all. None of the continuations
        may begin with the tokens of another.
        """
        ...

    def count_tokens(
        self,
        prompt: Prompt,
        *,
        chat_template: str | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> int:
        """Return how many tokens a prompt has, those of the chat template included.

        ``options`` are CHAT_OPTIONS, by which a conversation's template may say more.
        """
        ...

    def stats(self) -> EngineStats:
        """Return the counters as of the last step."""
        ...

    def close(self, *, drain: bool = False) -> None:
        """Free everything. Idempotent.

        What is in flight fails with EngineClosedError; with ``drain`` it is finished first, and
        requests that come meanwhile are taken too.
        """
        ...


class EngineFactory(Protocol):
    """Makes engines: ``SharedEngine`` is one, ``testing.EchoEngine`` another."""

    def __call__(self, spec: EngineSpec) -> Engine:
        """Build an engine and return when it is ready; raises EngineError."""
        ...
