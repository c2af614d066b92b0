"""LineTask: what is done with each line of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine_contract import Role
from sage.libs.operators.service_operator import ServiceOperator
from sage.tools.cli.run.batch.lines import (
    AnswerLines,
    ClassifyLines,
    EmbedLines,
    LineForm,
    ScoreLines,
)


@dataclass(frozen=True, kw_only=True)
class LineTask:
    """An operator on lines.

    ``name`` is the operator's, ``role`` that of the model, ``arguments`` are the operator's own,
    and ``facts`` those of them that its results follow from, as JSON has them.
    """

    name: str
    role: Role
    operator: type[ServiceOperator]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        config: VLLMServiceConfig,
        *,
        system: str | None,
        query: str | None,
        labels: Sequence[str] | None,
    ) -> LineTask:
        """Return what a configuration's model is to do: score for a query, classify, and so on."""
        facts = {"query": query, "labels": None if labels is None else list(labels)}
        if query is not None:
            return cls(
                name="score",
                role=Role.SCORE,
                operator=ScoreLines,
                arguments={"query": query},
                facts=facts,
            )
        if labels is not None or config.scoring_model_id is not None:
            return cls(
                name="classify",
                role=Role.SCORE if labels is None else Role.GENERATE,
                operator=ClassifyLines,
                arguments={"labels": labels},
                facts={**facts, "lora": config.sampling.get("lora")},
            )
        if config.model_id is None:
            return cls(name="embed", role=Role.EMBED, operator=EmbedLines)
        arguments = {"system_prompt": system, "options_key": "options", "retries": 2}
        return cls(
            name="generate",
            role=Role.GENERATE,
            operator=AnswerLines,
            arguments={**arguments, **config.sampling},
            facts={"set of sampling options": dict(config.sampling), "system prompt": system},
        )

    def form(self, template: str | None) -> LineForm:
        """Return what reads the lines; raises ValueError for a template."""
        form: LineForm = self.operator.form(template)  # type: ignore[attr-defined]  # all have it
        return form
