"""TRL's trainers, with our order, checkpoints and loss; and the watcher beside them.

Import it only in the process of a job: the imports take seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from sage.tuning.job.writer import JobWriter, whole_folder, write_json
from sage.tuning.training.progress import EvaluationLog, Pace, Saves, Stop, most_memory
from sage.tuning.training.rows_in_torch import trained_scores


class GivenOrder(torch.utils.data.Sampler):  # type: ignore[misc]  # torch is Any here
    """Yields rows in a given order: it is the same after a restart, wherever that begins."""

    def __init__(self, rows: Sequence[int]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[int]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class OwnCheckpoints(Trainer):  # type: ignore[misc]  # transformers is Any here
    """What both trainers do in our way: the order of rows, and checkpoints that are whole."""

    order: Sequence[int] = ()
    checkpoints: Path
    evaluations: EvaluationLog

    def _get_train_sampler(self, *_: Any, **__: Any) -> GivenOrder:
        return GivenOrder(self.order)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint that is there whole or not at all."""
        step = self.state.global_step
        own = self.args.output_dir
        with whole_folder(self.checkpoints / f"{step:06d}") as staged:
            self.args.output_dir = str(staged)
            try:
                Trainer._save_checkpoint(self, model, trial)  # noqa: SLF001 - not TRL's, with a card
            finally:
                self.args.output_dir = own
            for path in (staged / f"checkpoint-{step}").iterdir():
                path.rename(staged / path.name)
            (staged / f"checkpoint-{step}").rmdir()
            write_json(staged / "evaluations.json", self.evaluations.to_json())

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the weights alone: tokenizer and arguments are the job's."""
        arguments = {"save_embedding_layers": False} if hasattr(self.model, "peft_config") else {}
        self.model.save_pretrained(output_dir, state_dict=state_dict, **arguments)


class SageSFTTrainer(OwnCheckpoints, SFTTrainer):  # type: ignore[misc]  # TRL is Any here
    """Trains answers."""

    def compute_loss(
        self,
        model: Any,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,  # noqa: FBT001 - as the trainer calls it
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a batch, whose scores are made only where tokens are trained.

        It is divided by the trained tokens of the whole step, so that its parts weigh the same
        however it is divided into micro-batches.
        """
        if return_outputs or self.aux_loss_enabled:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        scores, wanted, _ = trained_scores(model, inputs)
        summed = torch.nn.functional.cross_entropy(scores, wanted, reduction="sum")
        return summed / (len(wanted) if num_items_in_batch is None else num_items_in_batch)


class SageDPOTrainer(OwnCheckpoints, DPOTrainer):  # type: ignore[misc]  # TRL is Any here
    """Trains preferences; the base model, its adapter switched off, is the reference."""

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset  # tokens already

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = ["prompt_ids", "chosen_ids", "rejected_ids"]


def dpo_arguments(job: JobWriter, micro: int, *, on_gpu: bool) -> Any:
    """Return TRL's arguments for a job that learns preferences."""
    return DPOConfig(
        **common_arguments(job, micro, on_gpu=on_gpu), beta=job.settings.beta, max_length=None
    )


def sft_arguments(job: JobWriter, micro: int, *, on_gpu: bool) -> Any:
    """Return TRL's arguments for a job; all whose defaults would be wrong here are given."""
    return SFTConfig(
        **common_arguments(job, micro, on_gpu=on_gpu),
        max_length=None,
        packing=False,
        shuffle_dataset=False,
    )


def common_arguments(job: JobWriter, micro: int, *, on_gpu: bool) -> dict[str, Any]:
    """Return the arguments that SFT and DPO share."""
    settings, steps = job.settings, int(job.job["steps"])
    return {
        "output_dir": str(job.checkpoints),
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": settings.batch_size // micro,
        "learning_rate": settings.rate(job.request.strategy, job.job["method"]),
        "lr_scheduler_type": "constant_with_warmup"
        if settings.schedule == "constant"
        else settings.schedule,
        "warmup_steps": math.ceil(settings.warmup_ratio * steps),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "max_steps": steps,
        "optim": "adamw_torch_fused" if on_gpu else "adamw_torch",
        "seed": settings.seed,
        "data_seed": settings.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",  # the watcher says when
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
    }


class Watcher(TrainerCallback):  # type: ignore[misc]  # transformers is Any here
    """Tells of each step, evaluates, has checkpoints written, and ends training when it should.

    Args:
        job: whom it tells.
        evaluate: returns what a model is worth; None evaluates nothing.
        log: what was evaluated so far.
        pace: what measures it.
        stop: whether somebody wants it to end.
    """

    def __init__(
        self,
        job: JobWriter,
        evaluate: Callable[[Any], dict[str, float]] | None,
        log: EvaluationLog,
        pace: Pace,
        stop: Stop,
    ) -> None:
        self._job, self._evaluate, self._log = job, evaluate, log
        self._pace, self._stop = pace, stop
        steps = int(job.job["steps"])
        self._steps = steps
        self._eval_every = job.settings.eval_every or max(1, math.ceil(steps / 10))
        self._saves = Saves(job.settings.checkpoint_every, steps)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Begin to measure."""
        self._pace.begin(state.global_step)

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any], **_: Any
    ) -> None:
        """Tell of a step; raise FloatingPointError for a loss that is no number."""
        if "loss" not in logs:
            return
        step, loss = state.global_step, float(logs["loss"])
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss of step {step} is {loss}: training has gone astray; lower the "
                f"hyperparameter learning_rate, which is {args.learning_rate:g}"
            )
        self._job.tell(
            "step",
            step=step,
            loss=round(loss, 6),
            memory_bytes=most_memory(),
            **self._pace.after(step),
        )

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> Any:
        """Evaluate and save when it is time, and stop when it is asked for."""
        step = state.global_step
        is_last = step >= self._steps
        if self._evaluate and (is_last or step % self._eval_every == 0):
            self.evaluate(model, step)
            control.should_save |= self._log.best_step == step
            control.should_training_stop |= self._log.is_over(self._job.settings.early_stopping)
        control.should_save |= is_last or self._saves.is_due(step)
        if self._stop.is_asked or control.should_training_stop:
            control.should_save = control.should_training_stop = True
        if control.should_save:
            self._saves.begin()
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell of a checkpoint, and remove those that nobody needs any more."""
        step = state.global_step
        self._saves.end()
        self._job.tell("checkpoint", step=step)
        self._log.remove_others(self._job.checkpoints, step)

    def evaluate(self, model: Any, step: int) -> None:
        """Evaluate, and tell of it."""
        if self._evaluate is None:
            return
        began = time.monotonic()
        found = self._evaluate(model)
        self._log.add(step, found)
        rounded = {name: round(value, 6) for name, value in found.items()}
        self._job.tell("evaluation", step=step, **rounded)
        self._pace.pause(time.monotonic() - began)


def without_printing(trainer: Any) -> None:
    """Have a trainer say nothing by itself."""
    trainer.remove_callback(PrinterCallback)
