"""The second half of a job: verify the result in vLLM, and register it if it is better."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sage.common.components.sage_vllm.adapters.lora_adapter import find_adapter
from sage.common.components.sage_vllm.engine_contract import LoraAdapter
from sage.common.components.sage_vllm.fine_tuning import FineTuneJob
from sage.tuning.data.base_tokenizer import BaseTokenizer
from sage.tuning.data.rendering import Row
from sage.tuning.job.writer import TRAINED, JobWriter
from sage.tuning.training.progress import Stop
from sage.tuning.verification.judgement import Figures, check_alike, why_not_better
from sage.tuning.verification.publication import publish
from sage.tuning.verification.report_page import report_page
from sage.tuning.verification.serving import Question, served

_SAMPLES = 5


def verify(job: JobWriter, stop: Stop) -> None:
    """Compare what was trained with the base model, both in vLLM; write the report."""
    trained: dict[str, Any] = json.loads((job.folder / TRAINED).read_bytes())
    figures: Figures | None = None
    samples: list[dict[str, str]] = []
    if trained["after"] is not None:
        job.enter("verifying")
        figures, samples = _figures(job, trained)
        check_alike(figures, _answer_loss(trained["before"]))
    if stop.is_asked:
        job.enter("cancelled")
        return
    reason = why_not_better(trained["before"], trained["after"], figures, job.request.gate)
    report = _report(job, trained, figures, samples, reason)
    if job.request.output_model and (reason is None or job.request.keep_worse):
        job.enter("registering")
        model = publish(job, report)
        report |= {"registered": True, "commit": model.commit, "revision": model.revision}
    job.write_report(report)
    title = str(job.request.output_model or job.folder.name)
    page = report_page(title, report, FineTuneJob.open(job.folder).metrics())
    (job.folder / "report.html").write_text(page, encoding="utf-8")
    job.enter("succeeded", registered=report["registered"])


def _answer_loss(evaluation: Mapping[str, Any]) -> float:
    """Return the loss of the answers, of preferences the chosen ones: what vLLM can measure."""
    loss: float = evaluation.get("chosen_loss", evaluation["loss"])
    return loss


def _figures(job: JobWriter, trained: dict[str, Any]) -> tuple[Figures, list[dict[str, str]]]:
    request = job.request
    tokenizer = BaseTokenizer(request.base_model, request.base_model_path)
    rows = job.evaluated_rows()
    questions = _questions(job, tokenizer, rows)
    short = [row for row in rows if len(row.ids) < tokenizer.context]
    found = _served_beside(job, tokenizer, questions, short)
    before, after = found.before, found.after
    expected = [question.expected for question in questions]
    commonest = [answer for answer, _ in Counter(expected).most_common(1)] * len(expected)
    figures = Figures(
        dtype=found.dtype,
        loss_trained=_answer_loss(trained["after"]),
        loss_vllm=found.loss,
        questions=len(questions),
        exact_before=_equal(before, expected),
        exact_after=_equal(after, expected),
        gained=_turned(before, after, expected),
        lost=_turned(after, before, expected),
        gained_on_commonest=_turned(commonest, after, expected),
        lost_on_commonest=_turned(after, commonest, expected),
        changed=len(questions) - _equal(found.base, after),
        plain_changed=len(questions) - _equal(found.base, found.beside),
        loss_baseline=found.loss_baseline,
    )
    samples = [
        {"prompt": _shown(question), "expected": question.expected, "before": one, "after": other}
        for question, one, other in zip(questions[:_SAMPLES], before, after, strict=False)
    ]
    return figures, samples


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Answers of the base alone, and beside the result; of what to compare with; of the result.

    What to compare with is the base itself, but where a baseline was asked for.
    """

    base: list[str]
    beside: list[str]
    before: list[str]
    after: list[str]
    loss: float
    dtype: str
    loss_baseline: float | None = None


def _served_beside(
    job: JobWriter,
    tokenizer: BaseTokenizer,
    questions: Sequence[Question],
    rows: Sequence[Row],
) -> _Found:
    """Ask the base and the result: an adapter in one engine, a whole model in one of its own."""
    request, room = job.request, tokenizer.context
    longest = max(len(row.ids) for row in rows)
    base, path = request.base_model, request.base_model_path
    if not job.makes_adapter:
        with served(base, path, rank=None, longest=longest, room=room) as serving:
            (before,) = serving.answers(questions, [None])
        result = request.output_model or "trained"
        with served(result, job.result, rank=None, longest=longest, room=room) as serving:
            (after,) = serving.answers(questions, [None])
            loss = serving.loss(rows, None)
        # Rounded to the base's type, whatever the engine computes with.
        return _Found(
            base=before, beside=before, before=before, after=after, loss=loss, dtype="as stored"
        )
    rank = job.settings.rank
    name = request.baseline
    baseline = None if name is None else find_adapter(name, request.root)
    adapter = LoraAdapter(name="trained", commit="trained", path=job.result, rank=rank)
    ranks = [rank, *([] if baseline is None else [baseline.rank])]
    with served(base, path, rank=max(ranks), longest=longest, room=room) as serving:
        compared = [None] if baseline is None else [None, baseline]
        alone = serving.answers(questions, compared)
        *beside, after = serving.answers(questions, [*compared, adapter])
        return _Found(
            base=alone[0],
            beside=beside[0],
            before=alone[-1],
            after=after,
            loss=serving.loss(rows, adapter),
            dtype=serving.dtype,
            loss_baseline=None if baseline is None else serving.loss(rows, baseline),
        )


def _questions(job: JobWriter, tokenizer: BaseTokenizer, rows: Sequence[Row]) -> list[Question]:
    prompts = json.loads((job.folder / "data" / "prompts.json").read_bytes())
    return [
        Question(prompt=prompt, row=row, expected=_answer(tokenizer, row))
        for row, prompt in zip(rows, prompts, strict=False)
        if prompt and len(row.ids) < tokenizer.context
    ]


def _answer(tokenizer: BaseTokenizer, row: Row) -> str:
    """Return the text of a row's first answer, without the token that ends it."""
    start, end = row.spans[0]
    return tokenizer.answer_text(row.ids[start:end])


def _equal(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(a == b for a, b in zip(one, other, strict=True))


def _turned(one: Sequence[str], other: Sequence[str], expected: Sequence[str]) -> int:
    """Return how many answers are right in the other and not in the one."""
    return sum(a != right == b for a, b, right in zip(one, other, expected, strict=True))


def _shown(question: Question) -> str:
    prompt: Any = question.prompt
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def _report(
    job: JobWriter,
    trained: dict[str, Any],
    figures: Figures | None,
    samples: list[dict[str, str]],
    reason: str | None,
) -> dict[str, Any]:
    request = job.request
    return {
        "job_id": job.job["id"],
        "status": "succeeded",
        "base_model": request.base_model,
        "output_model": request.output_model,
        "registered": False,
        "better": reason is None,
        "reason": reason,
        "warnings": job.job["report"]["warnings"],
        "gate": request.gate,
        "baseline": request.baseline,
        "kind": "lora" if job.makes_adapter else "text",
        "output_dir": str(job.folder),
        "steps": trained["steps"],
        "best_step": trained["best_step"],
        **job.measured(),
        "evaluation": {"before": trained["before"], "after": trained["after"]},
        "verification": None if figures is None else figures.to_json(),
        "samples": samples,
    }
