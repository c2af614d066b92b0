"""ServiceLM: the text model of a VLLMService for the evaluations of ``lm_eval``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from sage.common.components.sage_vllm.service import VLLMService
from sage.common.core.errors import PackageNotInstalledError
from sage.common.model_registry.vllm_registry import get_model_path

try:
    from lm_eval.api.model import TemplateLM
except ImportError:  # said when a ServiceLM is made
    TemplateLM = object

_SAMPLES = ("do_sample", "temperature")


class ServiceLM(TemplateLM):  # type: ignore[misc]  # which is Any here
    """The text model of an open service, as EleutherAI's ``lm_eval`` asks models.

    All requests of a task go to the engine at once, beside what others ask of the service::

        import lm_eval
        from sage.common.components.sage_vllm import VLLMService
        from sage.libs.evaluation import ServiceLM

        with VLLMService({"model_id": "sage/demo-chat"}) as service:
            found = lm_eval.simple_evaluate(model=ServiceLM(service), tasks=["arc_easy"])

    Texts that are too long for the model lose their beginning, as with lm_eval's own models.

    Args:
        service: has a text model, ``model_id``, and is open.
        max_gen_toks: how long an answer is where the task does not say.
        options: of all requests: ``lora`` and ``priority``, as of ``VLLMService.generate``.
    """

    def __init__(
        self,
        service: VLLMService,
        *,
        max_gen_toks: int = 256,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if TemplateLM is object:
            raise PackageNotInstalledError("lm_eval", "isage-libs[evaluation]", "for evaluations")
        from transformers import AutoTokenizer

        super().__init__()
        config = service.config
        if config.model_id is None:
            raise ValueError("the service has no text model: add 'model_id' to its configuration")
        path = get_model_path(config.model_id, config.revision, root=config.model_root)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        self.max_gen_toks = max_gen_toks
        self.max_length = int(service.stats()["engine"]["max_model_len"])
        self._service = service
        self._options = dict(options or {})

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text; it stands before one that has no context."""
        token: int = self.tokenizer.eos_token_id
        return token

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without a context: the token that begins texts, or ends one."""
        begin: int | None = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else begin

    @property
    def tokenizer_name(self) -> str:
        """Where the tokenizer is from, for lm_eval's caches."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, *, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Return the tokens of a text."""
        special = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        token_ids: list[int] = self.tokenizer.encode(string, **special)
        return token_ids

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], *, add_generation_prompt: bool = True
    ) -> str:
        """Return the text of a conversation."""
        text: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )
        return text

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        answers = self._weigh([(context, continuation) for _, context, continuation in requests])
        for (texts, _, _), answer in zip(requests, answers, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], **_: Any) -> list[float]:
        """Return the log-probabilities of whole texts, those that are too long in windows."""
        from lm_eval.utils import (
            get_rolling_token_windows,
            make_disjoint_window,
        )

        windows = [
            [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(text, add_special_tokens=False),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length - 1,
                    context_len=1,
                )
            ]
            for (text,) in (request.args for request in requests)
        ]
        weighed = iter(self._weigh([window for each in windows for window in each]))
        sums = [sum(logprob for logprob, _ in islice(weighed, len(each))) for each in windows]
        for request, total in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return sums

    def generate_until(self, requests: Sequence[Any], **_: Any) -> list[str]:
        """Return an answer per request, by the options that its task gives."""
        results = self._service.generate([self._prompt(*request.args) for request in requests])
        texts = [result["text"] for result in results]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _prompt(self, context: str, wanted: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in wanted.items() if name not in ("until", *_SAMPLES)}
        length = given.pop("max_gen_toks", self.max_gen_toks)
        until = wanted.get("until") or []
        samples = wanted.get("do_sample", "temperature" in wanted)
        options = {
            **self._options,
            **given,
            "max_tokens": length,
            "temperature": wanted.get("temperature", 1.0) if samples else 0,
            "stop": [until] if isinstance(until, str) else list(until),
        }
        token_ids = self.tok_encode(context)[-max(1, self.max_length - length) :]
        return {"prompt_token_ids": token_ids, "options": options}

    def _weigh(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        fitting = []
        for context, continuation in pairs:
            room = self.max_length - 1 - len(continuation)
            fitting.append((context[max(0, len(context) - room) :], continuation))
        results = self._service.loglikelihood(fitting, **self._options)
        return [(result["logprob"], result["is_greedy"]) for result in results]
