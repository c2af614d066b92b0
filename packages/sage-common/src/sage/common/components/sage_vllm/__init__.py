"""vLLM as a service in this process: the service, its configuration, and what can go wrong.

from sage.common.components.sage_vllm import VLLMService

with VLLMService({"model_id": "Qwen/Qwen2.5-0.5B-Instruct"}) as service:
    print(service.generate([{"role": "user", "content": "Hello"}])[0]["text"])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sage.common.core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from sage.common.components.sage_vllm.config import VLLMServiceConfig
    from sage.common.components.sage_vllm.engine_contract import Reasoning
    from sage.common.components.sage_vllm.errors import (
        EngineClosedError,
        EngineDeadError,
        EngineError,
        EngineStartError,
        InvalidAnswerError,
        InvalidInputError,
        InvalidOptionError,
        InvalidRequestError,
        ModelInUseError,
        NoChatTemplateError,
        PoisonRequestError,
        PromptTooLongError,
        VLLMNotInstalledError,
        WrongModelTypeError,
    )
    from sage.common.components.sage_vllm.fine_tuning import (
        FineTuneRequest,
        FineTuneRequestError,
        FineTuningPendingError,
        fine_tune,
    )
    from sage.common.components.sage_vllm.planning.memory_check import InsufficientMemoryError
    from sage.common.components.sage_vllm.planning.model_files import BrokenModelError
    from sage.common.components.sage_vllm.planning.model_trust import (
        PickledWeightsError,
        RemoteCodeError,
        UnsafeModelError,
    )
    from sage.common.components.sage_vllm.planning.sentence_pooling import UnsupportedModelError
    from sage.common.components.sage_vllm.prometheus import VLLMServiceCollector
    from sage.common.components.sage_vllm.requests.result_types import (
        BeamResult,
        EmbedResult,
        GenerateResult,
        LikelihoodResult,
        ProcessPayload,
    )
    from sage.common.components.sage_vllm.requests.scoring.scoring_results import (
        ClassifyResult,
        RerankResult,
        ScoreResult,
    )
    from sage.common.components.sage_vllm.service import VLLMService

__all__ = [
    "BeamResult",
    "BrokenModelError",
    "ClassifyResult",
    "EmbedResult",
    "EngineClosedError",
    "EngineDeadError",
    "EngineError",
    "EngineStartError",
    "FineTuneRequest",
    "FineTuneRequestError",
    "FineTuningPendingError",
    "GenerateResult",
    "InsufficientMemoryError",
    "InvalidAnswerError",
    "InvalidInputError",
    "InvalidOptionError",
    "InvalidRequestError",
    "LikelihoodResult",
    "ModelInUseError",
    "NoChatTemplateError",
    "PickledWeightsError",
    "PoisonRequestError",
    "ProcessPayload",
    "PromptTooLongError",
    "Reasoning",
    "RemoteCodeError",
    "RerankResult",
    "ScoreResult",
    "UnsafeModelError",
    "UnsupportedModelError",
    "VLLMNotInstalledError",
    "VLLMService",
    "VLLMServiceCollector",
    "VLLMServiceConfig",
    "WrongModelTypeError",
    "fine_tune",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "BeamResult": "sage.common.components.sage_vllm.requests.result_types",
        "BrokenModelError": "sage.common.components.sage_vllm.planning.model_files",
        "ClassifyResult": "sage.common.components.sage_vllm.requests.scoring.scoring_results",
        "EmbedResult": "sage.common.components.sage_vllm.requests.result_types",
        "EngineClosedError": "sage.common.components.sage_vllm.errors",
        "EngineDeadError": "sage.common.components.sage_vllm.errors",
        "EngineError": "sage.common.components.sage_vllm.errors",
        "EngineStartError": "sage.common.components.sage_vllm.errors",
        "FineTuneRequest": "sage.common.components.sage_vllm.fine_tuning",
        "FineTuneRequestError": "sage.common.components.sage_vllm.fine_tuning",
        "FineTuningPendingError": "sage.common.components.sage_vllm.fine_tuning",
        "GenerateResult": "sage.common.components.sage_vllm.requests.result_types",
        "InsufficientMemoryError": "sage.common.components.sage_vllm.planning.memory_check",
        "InvalidAnswerError": "sage.common.components.sage_vllm.errors",
        "InvalidInputError": "sage.common.components.sage_vllm.errors",
        "InvalidOptionError": "sage.common.components.sage_vllm.errors",
        "InvalidRequestError": "sage.common.components.sage_vllm.errors",
        "LikelihoodResult": "sage.common.components.sage_vllm.requests.result_types",
        "ModelInUseError": "sage.common.components.sage_vllm.errors",
        "NoChatTemplateError": "sage.common.components.sage_vllm.errors",
        "PickledWeightsError": "sage.common.components.sage_vllm.planning.model_trust",
        "PoisonRequestError": "sage.common.components.sage_vllm.errors",
        "ProcessPayload": "sage.common.components.sage_vllm.requests.result_types",
        "PromptTooLongError": "sage.common.components.sage_vllm.errors",
        "Reasoning": "sage.common.components.sage_vllm.engine_contract",
        "RemoteCodeError": "sage.common.components.sage_vllm.planning.model_trust",
        "RerankResult": "sage.common.components.sage_vllm.requests.scoring.scoring_results",
        "ScoreResult": "sage.common.components.sage_vllm.requests.scoring.scoring_results",
        "UnsafeModelError": "sage.common.components.sage_vllm.planning.model_trust",
        "UnsupportedModelError": "sage.common.components.sage_vllm.planning.sentence_pooling",
        "VLLMNotInstalledError": "sage.common.components.sage_vllm.errors",
        "VLLMService": "sage.common.components.sage_vllm.service",
        "VLLMServiceCollector": "sage.common.components.sage_vllm.prometheus",
        "VLLMServiceConfig": "sage.common.components.sage_vllm.config",
        "WrongModelTypeError": "sage.common.components.sage_vllm.errors",
        "fine_tune": "sage.common.components.sage_vllm.fine_tuning",
    },
)
