"""VLLMRenderer: makes of prompts, texts and options what an engine of vLLM takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sage.common.components.sage_vllm.adapters.lora_requests import LoraRequests
from sage.common.components.sage_vllm.backend.chat.answer_reader import AnswerReader
from sage.common.components.sage_vllm.backend.chat.answer_readers import AnswerReaders
from sage.common.components.sage_vllm.backend.chat.chat_format import ChatFormat
from sage.common.components.sage_vllm.backend.rendering.images import Images
from sage.common.components.sage_vllm.backend.rendering.sampling_parameters import (
    SamplingParameters,
)
from sage.common.components.sage_vllm.backend.rendering.token_reader import TokenReader
from sage.common.components.sage_vllm.backend.scoring.continuations import Continuations
from sage.common.components.sage_vllm.backend.scoring.text_batches import (
    TOO_LONG,
    TOO_MANY_TOKENS,
    TextBatches,
    check_known,
)
from sage.common.components.sage_vllm.backend.vllm_types import LLMEngine, VLLMClasses
from sage.common.components.sage_vllm.engine_contract import Prompt
from sage.common.components.sage_vllm.errors import (
    InvalidRequestError,
    NoChatTemplateError,
    PromptTooLongError,
)
from sage.common.components.sage_vllm.tokens import TokenIds


class VLLMRenderer(TextBatches):
    """Renders requests, on any thread.

    Its ``parameters`` are those of generations, its ``images`` decode the pictures in prompts, and
    its ``tokens`` say what tokens mean.
    It holds nothing of the engine that it came with: requests go on being rendered while an engine
    that died is built again, and fit the new one.

    Args:
        model_id: named in errors.
        engine: the LLMEngine whose model and tokenizer it renders for.
        vllm: the classes of vLLM that requests are made with.
        tool_parser: vLLM's name of what reads calls of tools; None looks at the chat template.
    """

    def __init__(
        self,
        model_id: str,
        engine: LLMEngine,
        vllm: VLLMClasses,
        *,
        tool_parser: str | None = None,
    ) -> None:
        self.parameters = SamplingParameters(model_id, engine.model_config, vllm)
        self.images = Images(model_id, engine, vllm)
        self.tokens = TokenReader(model_id, engine)
        self._model_id = model_id
        self._vllm = vllm
        self._renderer = engine.renderer
        self.continuations = Continuations(model_id, engine.renderer, vllm)
        self._model_config, self._config = engine.model_config, engine.vllm_config
        self._max_model_len = engine.model_config.max_model_len
        self._vocabulary = engine.model_config.get_vocab_size()
        self._generates = engine.model_config.runner_type == "generate"
        lora = engine.vllm_config.lora_config
        self._lora_requests = LoraRequests(
            model_id,
            vllm.LoRARequest,
            max_rank=None if lora is None else lora.max_lora_rank,
            ranks=vllm.lora_ranks,
        )
        self._pooling_params: dict[tuple[bool, int | None], Any] = {}
        self._chat = ChatFormat(model_id, engine.renderer, engine.model_config, vllm)
        self.chat_templates, self.chat_marks = self._chat.names, self._chat.marks
        self.without_thinking = self._chat.without_thinking
        self._readers = AnswerReaders(
            model_id,
            engine.vllm_config,
            engine.renderer,
            tool_parser=tool_parser,
            chat_format=self._chat,
            vllm=vllm,
        )

    def generation(
        self, prompt: Prompt, options: Mapping[str, Any], *, incremental: bool
    ) -> tuple[Any, Any, dict[str, Any], AnswerReader | None]:
        """Return all that a request needs: the prompt, its parameters, vLLM's arguments, a reader.

        The reader is for an answer that is more than its text, None for others. Raises
        InvalidRequestError; of its kinds PromptTooLongError and NoChatTemplateError.
        """
        budget = self._readers.thinking_budget(options)
        sampling = options if budget is None else {**options, "thinking_token_budget": budget}
        params = self.parameters.of(sampling, incremental=incremental)
        rendered = self.render(prompt, options)
        arguments = self.request_arguments(options)
        reader = self._readers.prepare(prompt, options, rendered, params, arguments)
        return rendered, params, arguments, reader

    def check_options(self, options: Mapping[str, Any]) -> None:
        """Raise InvalidRequestError for options that no prompt could have, by vLLM's own checks."""
        self.request_arguments(options)
        params, config = self.parameters.of(options), self._config
        try:
            params.verify(
                self._model_config,
                config.speculative_config,
                config.structured_outputs_config,
                self._renderer.get_tokenizer(),
            )
        except self._vllm.refusals as error:  # from None: what of vLLM led here helps nobody
            problem = f"bad sampling options: {error}"
            raise InvalidRequestError(self._model_id, problem) from None

    def proof_params(self) -> Any:
        """Return the parameters of the shortest work that there is."""
        if not self._generates:
            return self.pooling_params(normalize=True)
        return self.parameters.of_one_token()

    def render_tokens(self, token_ids: Sequence[int]) -> Any:
        """Check a prompt that is tokens already."""
        return self._renderer.render_cmpl([{"prompt_token_ids": list(token_ids)}])[0]

    def request_arguments(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a request needs beside its sampling parameters: adapter and priority."""
        arguments: dict[str, Any] = {}
        if options.get("priority"):
            arguments["priority"] = options["priority"]
        if (adapter := options.get("lora")) is not None:
            arguments["lora_request"] = self._lora_requests.of(adapter)
        return arguments

    def pooling_params(self, *, normalize: bool, dimensions: int | None = None) -> Any:
        """Return vLLM's PoolingParams for an embedding: one object for all that are alike."""
        key = (normalize, dimensions)
        if key not in self._pooling_params:
            self._pooling_params[key] = self._vllm.SharedPoolingParams(
                task="embed", use_activation=normalize, dimensions=dimensions
            )
        return self._pooling_params[key]

    def classes(self, count: int) -> tuple[str, ...]:  # noqa: ARG002 - a head's, in a subclass
        """Return what the model tells apart: nothing, as it has no head for it."""
        return ()

    def render(self, prompt: Prompt, options: Mapping[str, Any]) -> Any:
        """Apply the chat template if it is a conversation, tokenise, check the length.

        Raises InvalidRequestError; of its kinds PromptTooLongError and NoChatTemplateError.
        """
        if isinstance(prompt, TokenIds):
            self.tokens.check(prompt)
        rendered = self._render(prompt, options, {})
        token_ids = rendered.get("prompt_token_ids", ())
        check_known(self._model_id, token_ids, self._vocabulary)
        tokens = len(token_ids)
        if self._generates and tokens >= self._max_model_len:  # vLLM's engine refuses it later
            raise PromptTooLongError(self._model_id, tokens, self._max_model_len)
        return rendered

    def count_tokens(self, prompt: Prompt, options: Mapping[str, Any]) -> int:
        """Return how many tokens a prompt has, be it longer than the model takes."""
        renderer = self._renderer
        is_chat = not isinstance(prompt, str | TokenIds)
        params = renderer.default_chat_tok_params if is_chat else renderer.default_cmpl_tok_params
        unlimited = {"tok_params": replace(params, max_total_tokens=None)}
        return len(self._render(prompt, options, unlimited)["prompt_token_ids"])

    def _render(
        self, prompt: Prompt, options: Mapping[str, Any], arguments: Mapping[str, Any]
    ) -> Any:
        if not isinstance(prompt, str | TokenIds) and (decoded := self.images.decoded(prompt)):
            # Without vLLM's cache for engines: what it leaves out of a request, the next engine
            # lacks after a crash.
            arguments = {**arguments, "skip_mm_cache": True}
            with self.images.lock:
                return self._render_parsed(decoded, options, arguments)
        return self._render_parsed(prompt, options, arguments)

    def _render_parsed(
        self, prompt: Prompt, options: Mapping[str, Any], arguments: Mapping[str, Any]
    ) -> Any:
        try:
            if isinstance(prompt, TokenIds):
                parsed = {"prompt_token_ids": list(prompt)}
                return self._renderer.render_cmpl([parsed], **arguments)[0]
            if isinstance(prompt, str):
                parsed = self._vllm.parse_model_prompt(self._model_config, prompt)
                return self._renderer.render_cmpl([parsed], **arguments)[0]
            params = self._chat.params(options)
            _, rendered = self._renderer.render_chat([list(prompt)], params, **arguments)
            return rendered[0]
        except InvalidRequestError:
            raise
        except self._vllm.ChatTemplateResolutionError:
            raise NoChatTemplateError(self._model_id) from None
        except self._vllm.refusals as error:  # from None: what of vLLM led here helps nobody
            parameter = getattr(error, "parameter", None)
            if parameter not in TOO_LONG:
                raise InvalidRequestError(self._model_id, str(error)) from None
            counted = parameter == TOO_MANY_TOKENS
            tokens = self.count_tokens(prompt, options) if counted else None
            raise PromptTooLongError(self._model_id, tokens, self._max_model_len) from None
