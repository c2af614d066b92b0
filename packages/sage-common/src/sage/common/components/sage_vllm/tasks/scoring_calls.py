"""ScoringCalls: a service's calls of models with a head, and of text models by their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Message, Role
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.requests.gather import wait_for
from sage.common.components.sage_vllm.requests.scoring.label_call import LabelCall
from sage.common.components.sage_vllm.requests.scoring.scoring_call import ScoringCall
from sage.common.components.sage_vllm.requests.scoring.scoring_options import (
    check_for_labels,
    check_labels,
    check_top_n,
    checked_texts,
    parse_conversations,
    parse_pairs,
)
from sage.common.components.sage_vllm.requests.scoring.scoring_results import (
    ClassifyResult,
    RerankResult,
    ScoreResult,
    classify_result,
    rerank_result,
    score_result,
)
from sage.common.core.futures import errors_in_future
from sage.common.core.keywords import checks_keywords


class ScoringCalls:
    """The part of a VLLMService that scores, reranks, classifies and rewards.

    The model is ``scoring_model_id``, or one of the service's ``models`` with the role ``"score"``;
    with ``labels`` it is one that generates. All calls accept ``model``, the name of the one that
    is meant, and ``on_error="return"``, which puts None in the place of what could not be scored,
    and the reason in ``errors``; by default the first error is raised.
    """

    _engines: EnginePool
    _check_open: Callable[[], None]

    def score(
        self, query: str | Sequence[str], texts: str | Sequence[str], **options: Any
    ) -> ScoreResult:
        """Say how well each text answers a query, by a reranker.

        Args:
            query: one for all texts, or one for each of them.
            texts: a string or a list of strings, as many as memory holds.
            options: ``truncate=True`` reads the beginning of a pair that is too long, of the
                longer one of its texts less; ``activation=False`` gives the head's own numbers,
                without the model's sigmoid; ``chat_template`` is Jinja that makes one text of a
                pair, from messages of the roles ``query`` and ``document``; ``model`` and
                ``on_error`` are those of all these calls.

        Returns:
            ``scores`` (a number per text, in the order of the texts), ``model_id``,
            ``tokens_used`` (``prompt``, ``total``) and ``latency`` in seconds; with
            ``truncate=True`` also ``truncated``, how many pairs were cut; with
            ``on_error="return"`` also ``errors``, a list of ``{"index", "type", "message"}``.

        Raises:
            WrongModelTypeError: the model has no head, or one for several classes.
            PromptTooLongError: a pair is too long, without ``truncate``; it says which.
            ValueError: a text or an option is not valid; it says which.
        """
        result: ScoreResult = wait_for(self.score_async(query, texts, **options))
        return result

    @errors_in_future
    @checks_keywords
    def score_async(
        self,
        query: str | Sequence[str],
        texts: str | Sequence[str],
        *,
        truncate: bool = False,
        activation: bool = True,
        chat_template: str | None = None,
        on_error: str = "raise",
        model: str | None = None,
    ) -> Future[ScoreResult]:
        """Score texts and return a Future of the result; cancelling it aborts the scoring."""
        self._check_open()
        call = ScoringCall(
            parse_pairs(query, texts),
            score_result,
            task="score",
            truncate=truncate,
            activation=activation,
            chat_template=chat_template,
            on_error=on_error,
        )
        return self._engines.call(Role.SCORE, call, model=model, work=len(call))

    def rerank(
        self, query: str, texts: Sequence[str], top_n: int | None = None, **options: Any
    ) -> RerankResult:
        """Return the texts that answer a query best, best first, by a reranker.

        Args:
            query: what they are to answer.
            texts: from which to choose.
            top_n: how many at most; None is all of them.
            options: as of ``score``.

        Returns:
            ``results``, a list of ``{"index", "score", "text"}``, and the rest as of ``score``.
            Texts that could not be scored, under ``on_error="return"``, are only in ``errors``.
        """
        result: RerankResult = wait_for(self.rerank_async(query, texts, top_n, **options))
        return result

    @errors_in_future
    @checks_keywords
    def rerank_async(
        self,
        query: str,
        texts: Sequence[str],
        top_n: int | None = None,
        *,
        truncate: bool = False,
        activation: bool = True,
        chat_template: str | None = None,
        on_error: str = "raise",
        model: str | None = None,
    ) -> Future[RerankResult]:
        """Rerank texts and return a Future of the result; cancelling it aborts the scoring."""
        self._check_open()
        check_top_n(top_n)
        pairs = parse_pairs(query, texts)
        call = ScoringCall(
            pairs,
            lambda outcome: rerank_result(outcome, [text for _, text in pairs], top_n),
            task="rerank",
            truncate=truncate,
            activation=activation,
            chat_template=chat_template,
            on_error=on_error,
        )
        return self._engines.call(Role.SCORE, call, model=model, work=len(call))

    def classify(self, texts: Any, **options: Any) -> ClassifyResult:
        """Say which class each text is of, by a classifier or, with ``labels``, by a text model.

        A text model generates nothing for it: in one step of the engine it is read how likely each
        label is as the answer, all its tokens counted.

        Args:
            texts: a string or a list of strings; with ``labels`` also conversations, which are
                asked as they stand.
            options: ``labels``, two or more strings, ask a text model; ``prompt_template``, with
                ``{text}`` and perhaps ``{labels}``, is what it is asked, and ``chat_template``
                the name of one of its own; ``lora`` is the id of an adapter that it answers with;
                ``truncate=True`` reads the beginning of a text that is too long;
                ``activation=False`` gives a classifier's own numbers, without its softmax or
                sigmoid; ``model`` and ``on_error`` as of all these calls.

        Returns:
            ``labels`` (the likeliest class of each text), ``scores`` (its probability),
            ``classes`` (the names of all) and ``probabilities`` (a list per text, in the order of
            ``classes``); with ``labels`` also ``logprobs``, the log-probability of each as the
            answer, of which the probabilities are the shares. The rest is as of ``score``.

        Raises:
            WrongModelTypeError: the model has no head, and no ``labels`` are given.
            PromptTooLongError, ValueError: as of ``score``.
        """
        result: ClassifyResult = wait_for(self.classify_async(texts, **options))
        return result

    @errors_in_future
    @checks_keywords
    def classify_async(
        self,
        texts: Any,
        *,
        labels: Sequence[str] | None = None,
        prompt_template: str | None = None,
        truncate: bool = False,
        activation: bool = True,
        chat_template: str | None = None,
        lora: str | None = None,
        on_error: str = "raise",
        model: str | None = None,
    ) -> Future[ClassifyResult]:
        """Classify texts and return a Future of the result; cancelling it aborts it."""
        self._check_open()
        if labels is not None:
            entry = self._engines.table.find(model, Role.GENERATE)
            name = entry.sampling.get("lora") if lora is None else lora
            adapter = None if name is None else self._engines.adapters.find(name)
            asked = LabelCall(
                texts,
                check_labels(labels),
                prompt_template=prompt_template,
                truncate=truncate,
                chat_template=chat_template or entry.sampling.get("chat_template"),
                lora=adapter,
                on_error=on_error,
            )
            return self._engines.adapters.during(
                [{"lora": adapter}], lambda: entry.slot.call(asked, work=len(asked))
            )
        check_for_labels(prompt_template=prompt_template, chat_template=chat_template, lora=lora)
        call = ScoringCall(
            checked_texts(texts),
            classify_result,
            task="classify",
            gives_score=False,
            truncate=truncate,
            activation=activation,
            on_error=on_error,
        )
        return self._engines.call(Role.SCORE, call, model=model, work=len(call))

    def reward(self, conversations: Any, **options: Any) -> ScoreResult:
        """Say how good the last answer of each conversation is, by a reward model.

        Args:
            conversations: one, or a list of them, each a list of ``{"role", "content"}`` that
                goes through the model's chat template.
            options: ``activation=True`` puts the numbers through the model's sigmoid; by default
                they are the head's own, and only their order means something; ``chat_template``
                is the name of one of the model's; ``model`` and ``on_error`` as of all these calls.

        Returns:
            What ``score`` does, with a score per conversation.

        Raises:
            WrongModelTypeError, PromptTooLongError, ValueError: as of ``score``.
            NoChatTemplateError: the model has no chat template.
        """
        result: ScoreResult = wait_for(self.reward_async(conversations, **options))
        return result

    @errors_in_future
    @checks_keywords
    def reward_async(
        self,
        conversations: Sequence[Message] | Sequence[Sequence[Message]],
        *,
        activation: bool = False,
        chat_template: str | None = None,
        on_error: str = "raise",
        model: str | None = None,
    ) -> Future[ScoreResult]:
        """Reward conversations and return a Future of the result; cancelling it aborts it."""
        self._check_open()
        call = ScoringCall(
            parse_conversations(conversations),
            score_result,
            task="reward",
            activation=activation,
            chat_template=chat_template,
            on_error=on_error,
        )
        return self._engines.call(Role.SCORE, call, model=model, work=len(call))
