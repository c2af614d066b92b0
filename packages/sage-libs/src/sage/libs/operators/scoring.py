"""Operators that score and classify with the vLLM service of their environment."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.requests.scoring.scoring_options import (
    check_for_labels,
    check_labels,
    check_prompt_template,
    check_top_n,
    checked_texts,
)
from sage.common.core.futures import errors_in_future
from sage.libs.operators.prompts import PromptTemplate
from sage.libs.operators.records import RecordForms
from sage.libs.operators.service_operator import ServiceOperator, given


class VLLMScoreOperator(ServiceOperator):
    """Scores the text of each record for a query, or the best of its texts, by a reranker.

    A dict comes out as a copy with its score, a number; if it has a list of texts, with a list of
    scores, or with ``top_n`` the best of them. Other records are as for VLLMServiceGenerator,
    without conversations: a string becomes ``{"text": the string, "score": the number}``.

    Args:
        service_name: the name that the service is registered by.
        timeout: seconds a record may take, as for VLLMServiceGenerator; None is no limit.
        query: what all texts are scored for; None reads it from each record.
        query_key: where a dict's own query is.
        text_key: where a dict's text, or its list of texts, is.
        model: which of the service's models scores, by its name in ``models``; None is the scoring
            model, or the only one.
        output_key: where the score goes, in place of a field of the same name.
        top_n: of a list of texts, how many of the best go on, best first, each as
            ``{"index", "score", "text"}``; None, the default, scores all in their order.
        truncate: whether the beginning of a pair that is too long is scored; else it is an error.
        activation: False gives the numbers of the model's head, without its sigmoid.
        chat_template: Jinja that makes one text of a pair, from messages of the roles ``query``
            and ``document``, for models that were trained so.
        ordered: False emits each record as soon as it is done.
        max_in_flight: records in flight; None takes the service's capacity.
        retries: how often a record is tried again when the engine, not the record, failed.
    """

    def __init__(
        self,
        service_name: str = "vllm_service",
        timeout: float | None = None,
        *,
        query: str | None = None,
        query_key: str = "query",
        text_key: str = "text",
        model: str | None = None,
        output_key: str = "score",
        top_n: int | None = None,
        truncate: bool = False,
        activation: bool = True,
        chat_template: str | None = None,
        ordered: bool = True,
        max_in_flight: int | None = None,
        retries: int = 0,
    ) -> None:
        super().__init__(
            service_name,
            timeout=timeout,
            ordered=ordered,
            max_in_flight=max_in_flight,
            retries=retries,
        )
        check_top_n(top_n)
        if query is not None:
            checked_texts(query, "query")
        self.query = query
        self.query_key = query_key
        self.top_n = top_n
        special = given(chat_template=chat_template, model=model)
        self.task = "score" if top_n is None else "rerank"
        self.options = {"truncate": truncate, "activation": activation, **special}
        self._forms = RecordForms(
            input_key=text_key, key_argument="text_key", output_key=output_key
        )

    @errors_in_future
    def submit(self, record: Any) -> Future[Any]:
        """Start the scoring of one record."""
        query, texts = self._query(record), self._forms.read(record)
        options = self.options
        if self.top_n is not None:
            options = {**options, "top_n": self.top_n}
        return self.call_service_async(self.service_name, query, texts, method=self.task, **options)

    def complete(self, record: Any, result: dict[str, Any]) -> Any:
        """Return the record with its score, or with its best texts."""
        if self.top_n is not None:
            output: Any = result["results"]
        else:
            one = isinstance(self._forms.read(record), str)
            output = result["scores"][0] if one else result["scores"]
        return self._forms.enrich(record, output, {self._forms.output_key: output})

    def _query(self, record: Any) -> Any:
        if self.query is not None:
            return self.query
        fields = self._forms.original_fields(record)
        if self.query_key not in fields:
            raise ValueError(
                f"the record has no key {self.query_key!r}; it has {sorted(map(str, fields))}; "
                f"query_key= says which it is, query= gives one for all"
            )
        return fields[self.query_key]


class VLLMClassifyOperator(ServiceOperator):
    """Classifies the text of each record, by a classifier or, with ``labels``, by a text model.

    A dict comes out as a copy with its label and ``classification``: the ``score`` of that label,
    the ``probabilities`` of all by their names, ``model_id``, ``tokens_used`` and ``latency``.
    Other records are as for VLLMServiceGenerator; conversations are for text models.

    Args:
        service_name: the name that the service is registered by.
        timeout: seconds a record may take, as for VLLMServiceGenerator; None is no limit.
        labels: two or more words or phrases, of which a text model says how likely each is as its
            answer, in one step and without generating; None asks a model with a head, whose
            classes are its own.
        prompt_template: what a text model is asked, with ``{text}``, and ``{labels}`` if it is to
            name them.
        text_key: where a dict's text is.
        text_template: makes the text of the record's fields, ``"{title}: {body}"``, as
            VLLMServiceGenerator's ``prompt_template`` does.
        model: which of the service's models classifies, by its name in ``models``; None is the
            scoring model, with ``labels`` the text model, or the only one.
        lora: the adapter that a text model answers with; for ``labels``.
        output_key: where the label goes, in place of a field of the same name.
        details_key: where the rest goes; None leaves it out.
        truncate: whether the beginning of a text that is too long is classified; else it is an
            error.
        ordered: False emits each record as soon as it is done.
        max_in_flight: records in flight; None takes the service's capacity.
        retries: how often a record is tried again when the engine, not the record, failed.
    """

    task = "classify"

    def __init__(
        self,
        service_name: str = "vllm_service",
        timeout: float | None = None,
        *,
        labels: Sequence[str] | None = None,
        prompt_template: str | None = None,
        text_key: str = "text",
        text_template: str | None = None,
        model: str | None = None,
        lora: str | None = None,
        output_key: str = "label",
        details_key: str | None = "classification",
        truncate: bool = False,
        ordered: bool = True,
        max_in_flight: int | None = None,
        retries: int = 0,
    ) -> None:
        super().__init__(
            service_name,
            timeout=timeout,
            ordered=ordered,
            max_in_flight=max_in_flight,
            retries=retries,
        )
        if prompt_template is not None:
            check_prompt_template(prompt_template)
        if labels is None:
            check_for_labels(prompt_template=prompt_template, lora=lora)
        special = given(
            labels=None if labels is None else list(check_labels(labels)),
            prompt_template=prompt_template,
            model=model,
            lora=lora,
        )
        self.options = {"truncate": truncate, **special}
        self.details_key = details_key
        self._forms = RecordForms(
            input_key=text_key,
            key_argument="text_key",
            output_key=output_key,
            conversations=True,
        )
        self._template = (
            None if text_template is None else PromptTemplate(text_template, "text_template")
        )

    @errors_in_future
    def submit(self, record: Any) -> Future[Any]:
        """Start the classification of one record."""
        if self._template is None:
            text = self._forms.read(record)
        else:
            text = self._template.render(self._forms.fields(record))
        if not isinstance(text, str):  # a list of texts would be several
            text = [{"messages": text}] if "labels" in self.options else [text]
        return self.call_service_async(self.service_name, text, method="classify", **self.options)

    def complete(self, record: Any, result: dict[str, Any]) -> Any:
        """Return the record with its label."""
        label, probabilities = result["labels"][0], result["probabilities"][0]
        added = {self._forms.output_key: label}
        if self.details_key is not None:
            added[self.details_key] = {
                "score": result["scores"][0],
                "probabilities": dict(zip(result["classes"], probabilities, strict=True)),
                **{name: result[name] for name in ("model_id", "tokens_used", "latency")},
            }
        return self._forms.enrich(record, label, added)
