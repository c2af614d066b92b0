"""SamplingParameters: makes vLLM's parameters of options."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sage.common.components.sage_vllm.backend.vllm_types import ModelConfig, VLLMClasses
from sage.common.components.sage_vllm.errors import InvalidRequestError
from sage.common.components.sage_vllm.requests.sampling_options import (
    DEFAULT_MAX_TOKENS,
    REQUEST_OPTIONS,
    STRUCTURE_OPTIONS,
)


class SamplingParameters:
    """Makes vLLM's SamplingParams of a model; ``config`` has the defaults that the model sets."""

    def __init__(self, model_id: str, config: ModelConfig, vllm: VLLMClasses) -> None:
        self._model_id = model_id
        self._vllm = vllm
        self._defaults = {"max_tokens": DEFAULT_MAX_TOKENS, **config.get_diff_sampling_param()}

    def of(self, options: Mapping[str, Any], *, incremental: bool = False) -> Any:
        """Return parameters: the model's own defaults under the given options.

        With ``incremental`` each step has an output, else only the last one. Raises
        InvalidRequestError.
        """
        kinds = self._vllm.RequestOutputKind
        wanted = {**self._defaults, **options}
        try:
            for name in wanted.keys() & STRUCTURE_OPTIONS.keys():
                if (structure := wanted.pop(name)) not in (None, False):
                    wanted["structured_outputs"] = self._structured_outputs(name, structure)
            if (repetition := wanted.get("repetition_detection")) is not None:
                wanted["repetition_detection"] = self._vllm.RepetitionDetectionParams(**repetition)
            for name in REQUEST_OPTIONS:
                wanted.pop(name, None)
            return self._vllm.SamplingParams(
                **wanted, output_kind=kinds.CUMULATIVE if incremental else kinds.FINAL_ONLY
            )
        except self._vllm.refusals as error:
            raise InvalidRequestError(self._model_id, f"bad sampling options: {error}") from error

    def of_one_token(self) -> Any:
        """Return the parameters of the shortest answer there is."""
        return self._vllm.SamplingParams(
            max_tokens=1, temperature=0, output_kind=self._vllm.RequestOutputKind.FINAL_ONLY
        )

    def of_reading(self) -> Any:
        """Return the parameters that have a prompt's tokens weighed, and one more made."""
        return self._vllm.SamplingParams(
            max_tokens=1,
            temperature=0,
            prompt_logprobs=0,
            output_kind=self._vllm.RequestOutputKind.FINAL_ONLY,
        )

    def _structured_outputs(self, name: str, structure: Any) -> Any:
        if name == "structural_tag" and not isinstance(structure, str):
            structure = json.dumps(structure)
        return self._vllm.StructuredOutputsParams(**{STRUCTURE_OPTIONS[name]: structure})
