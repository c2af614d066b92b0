"""The training of a job, from its rows to the files of its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sage.tuning.data.base_tokenizer import BaseTokenizer
from sage.tuning.data.rendering import Row
from sage.tuning.estimate import replayed_rows_of
from sage.tuning.job.writer import TRAINED, JobWriter, whole_folder, write_json
from sage.tuning.training.order import order_of
from sage.tuning.training.progress import EvaluationLog, Pace, Stop

_COMPARED = 32
_NO_MEMORY = ("allocate memory", "out of memory")


class CancelledError(Exception):
    """Somebody asked the job to stop; it has a checkpoint to go on from."""


class OutOfMemoryError(RuntimeError):
    """What was to be trained at once did not fit in memory."""


def train(job: JobWriter, stop: Stop) -> None:
    """Train from the last checkpoint, or from the start; write ``result`` and its figures.

    Raises CancelledError where it was asked to stop before the end.
    """
    checkpoint = latest_checkpoint(job.checkpoints)
    log = EvaluationLog.of_checkpoint(checkpoint)
    since = -1 if checkpoint is None else int(checkpoint.name)
    if job.has_events:
        job.enter("training", resumed_from=since)
    else:
        job.enter("training")
        for warning in job.job["report"]["warnings"]:
            job.tell("warning", message=warning)
    with _memory_errors(job.micro_batch):
        trainer, watcher = make_trainer(job, log, stop)
        if log.before is None:
            watcher.evaluate(trainer.model, 0)
        if not log.is_over(job.settings.early_stopping):
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    last = latest_checkpoint(job.checkpoints)
    if last is None:
        raise RuntimeError("training ended without a checkpoint")
    if stop.is_asked:
        raise CancelledError
    _write_result(job, log, last)


@contextmanager
def _memory_errors(micro: int) -> Iterator[None]:
    """Have an allocation that fails say what to do; torch's errors for it are of several kinds."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(said in str(error) for said in _NO_MEMORY):
            raise OutOfMemoryError(
                f"memory ran out with {micro} rows at once: set the hyperparameter "
                "micro_batch_size below that, max_length, or gradient_checkpointing=true"
            ) from error
        raise


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the latest checkpoint, each of which is whole; None if there is none."""
    return max(folder.glob("[0-9]*"), key=lambda path: int(path.name), default=None)


def make_trainer(job: JobWriter, log: EvaluationLog, stop: Stop) -> tuple[Any, Any]:
    """Return TRL's trainer for a job, and the watcher that it tells."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sage.tuning.training import trainers

    own, replay, rejected = (job.rows(name) for name in ("training", "replay", "rejected"))
    rows = [*own, *replay]
    on_gpu = torch.cuda.is_available()
    path = job.request.base_model_path
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    own_tokenizer = BaseTokenizer(job.request.base_model, path)
    _compare_tokenizers(own_tokenizer, tokenizer, rows)
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.bfloat16 if on_gpu else torch.float32, local_files_only=True
    )
    # Checkpoints would be refused for settings that only generate; the base's file is published.
    model.generation_config = type(model.generation_config)()
    lengths = own.lengths + replay.lengths
    if rejected:  # a preference has the tokens of both its answers
        lengths = [one + other for one, other in zip(lengths, rejected.lengths, strict=True)]
    order = order_of(
        job.settings,
        steps=int(job.job["steps"]),
        own=len(own),
        replayed=replayed_rows_of(job.request, len(own), len(replay)),
        replay=len(replay),
        lengths=lengths,
    )
    pace = Pace(_tokens_of_steps(lengths, order, job.settings.batch_size))
    watcher = trainers.Watcher(job, _evaluator(job, own_tokenizer.pad_id), log, pace, stop)
    dpo = job.job["method"] == "dpo"
    make, arguments = (
        (trainers.SageDPOTrainer, trainers.dpo_arguments)
        if dpo
        else (trainers.SageSFTTrainer, trainers.sft_arguments)
    )
    trainer = make(
        model=model,
        args=arguments(job, job.micro_batch, on_gpu=on_gpu),
        train_dataset=_dataset(rows, rejected),
        processing_class=tokenizer,
        callbacks=[watcher],
        peft_config=_adapter(job),
    )
    trainers.without_printing(trainer)
    trainer.order, trainer.checkpoints, trainer.evaluations = order, job.checkpoints, log
    return trainer, watcher


def _tokens_of_steps(lengths: Sequence[int], order: Sequence[int], size: int) -> list[int]:
    return [
        sum(lengths[row] for row in order[start : start + size])
        for start in range(0, len(order), size)
    ]


def _dataset(rows: Sequence[Row], rejected: Sequence[Row]) -> Any:
    from datasets import Dataset

    from sage.tuning.training.pairs import columns_of
    from sage.tuning.training.rows_in_torch import labels_of

    if rejected:
        return Dataset.from_dict(columns_of(rows, rejected))
    return Dataset.from_dict(
        {"input_ids": [row.ids for row in rows], "labels": [labels_of(row) for row in rows]}
    )


def _evaluator(job: JobWriter, pad_id: int) -> Callable[[Any], dict[str, float]] | None:
    """Return what evaluates a model on the rows held out; None if there are none."""
    from sage.tuning.training.pairs import evaluate_pairs
    from sage.tuning.training.rows_in_torch import evaluate

    held_out = job.evaluated_rows()
    rejected = job.evaluated_rows("held_out_rejected")
    if not held_out:
        return None
    if rejected:
        beta = job.settings.beta
        return lambda model: evaluate_pairs(model, held_out, rejected, beta=beta, pad_id=pad_id)
    return lambda model: evaluate(model, held_out, pad_id)


def _adapter(job: JobWriter) -> Any:
    """Return the adapter to train; None where all weights are."""
    if job.request.strategy == "full":
        return None
    from peft import LoraConfig

    settings = job.settings
    modules = settings.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha or 2 * settings.rank,
        lora_dropout=settings.dropout,
        target_modules=modules if isinstance(modules, str) else list(modules),
        bias="none",
    )


def _compare_tokenizers(own: BaseTokenizer, theirs: Any, rows: Sequence[Row]) -> None:
    """Make sure that transformers, and so vLLM, reads texts as the rows were made."""
    for row in rows[:_COMPARED]:
        for start, end in row.spans:
            text = own.text_of(row.ids[start : end - 1])
            ours, (other,) = (
                own.encode([text])[0],
                theirs([text], add_special_tokens=False)["input_ids"],
            )
            if ours != other:
                raise RuntimeError(
                    f"transformers reads {text[:40]!r} as other tokens than tokenizer.json says: "
                    f"{other[:8]}, not {ours[:8]}"
                )


def _write_result(job: JobWriter, log: EvaluationLog, last: Path) -> None:
    from sage.tuning.training.adapter_files import publish_adapter
    from sage.tuning.training.model_files import publish_merged_model, publish_trained_model

    request = job.request
    best = log.best_step if log.best_step is not None else int(last.name)
    checkpoint = job.checkpoints / f"{best:06d}"
    with whole_folder(job.result) as folder:
        if request.strategy == "full":
            publish_trained_model(request.base_model_path, checkpoint, folder)
        elif request.merge:
            publish_merged_model(request.base_model_path, checkpoint, folder)
        else:
            publish_adapter(checkpoint, folder, base_model=request.base_model)
    figures = {"before": log.before, "after": log.of_step(best)}
    write_json(job.folder / TRAINED, {"steps": int(last.name), "best_step": best, **figures})
