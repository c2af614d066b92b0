"""`sage llm improve`: learn from what people corrected, and promote it only if it is better."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sage.tools.cli.commands.fine_tune.train import parse_hyperparameters, run_request
from sage.tools.cli.commands.options.model_options import Display, local_model_ids
from sage.tools.cli.terminal.output import write_note

if TYPE_CHECKING:
    from sage.tools.cli.tuning.improvement import Keys


@dataclass(frozen=True, kw_only=True)
class RecordKeys:
    """Where the records of a pipeline have what is needed."""

    prompt_key: Annotated[str, typer.Option(help="Key of the prompt, text or turns.")] = "prompt"
    answer_key: Annotated[str, typer.Option(help="Key of the answer.")] = "answer"
    corrected_key: Annotated[str, typer.Option(help="Key of what the answer should have been.")] = (
        "corrected"
    )
    rating_key: Annotated[str, typer.Option(help="Key of a rating: a number, or true.")] = "rating"
    least_rating: Annotated[
        float, typer.Option(help="The lowest rating of an answer to learn.")
    ] = 1.0

    def read(self) -> Keys:
        """Return them as what reads records takes them."""
        from sage.tools.cli.tuning.improvement import Keys

        return Keys(
            prompt=self.prompt_key,
            answer=self.answer_key,
            corrected=self.corrected_key,
            rating=self.rating_key,
            least_rating=self.least_rating,
        )


def improve(
    *,
    answers: Annotated[
        Path, typer.Option("--from", metavar="FILE", help="JSON Lines of a pipeline's answers.")
    ],
    base_model: Annotated[
        str,
        typer.Option(
            "--base-model", "-m", help="Id of a local model.", autocompletion=local_model_ids
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the job, empty or not there yet.")
    ],
    output_model: Annotated[
        str, typer.Option("--as", metavar="ID", help="Id of the adapter that the pipeline names.")
    ],
    keys: RecordKeys,
    replay: Annotated[
        Path | None, typer.Option("--replay", help="Examples of what the model can do already.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="Where decisions are noted; by default beside the folder.")
    ] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Register it under the id, if it is better.")
    ] = False,
    hyperparameter: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="As of fine-tune. May be repeated."),
    ] = None,
    display: Display,
) -> None:
    """Train an adapter on corrected and well rated answers, and promote it if it is better.

    Corrections, and answers of a high rating, become examples; a tenth of the prompts is held out.
    Better means that so many more of those are answered word for word, beside the adapter of this
    id if there is one, that it is no chance. Each decision is a line of the ledger. Without
    --promote nothing is registered, whatever comes of it.
    """
    from sage.tools.cli.tuning import improvement

    taken = improvement.examples_of(answers, keys.read())
    write_note(
        f"{len(taken.examples)} examples: {taken.corrected} corrected, {taken.rated} rated well; "
        f"{taken.left_out} records left out.",
        quiet=display.is_bare,
    )
    dataset = output.with_name(f"{output.name}.examples.jsonl")
    improvement.write_examples(taken, dataset)
    baseline = _registered(output_model)
    request = {
        "base_model": base_model,
        "dataset_path": dataset,
        "output_dir": output,
        "strategy": "lora",
        "output_model": output_model if promote else None,
        "gate": "proven",
        "baseline": baseline,
        "replay_path": replay,
        "hyperparameters": parse_hyperparameters(hyperparameter or []),
    }
    book = ledger or output.with_name("ledger.jsonl")

    def note(outcome: dict[str, Any]) -> None:
        improvement.note_decision(
            book,
            {
                "id": output_model,
                "base_model": base_model,
                "baseline": baseline,
                "from": str(answers),
                "examples": len(taken.examples),
                "decision": "promoted" if outcome["registered"] else "kept back",
                "reason": outcome["reason"] or (None if promote else "--promote was not given"),
                "commit": outcome.get("commit"),
                "verification": outcome["verification"],
            },
        )

    run_request(request, dry_run=False, display=display, then=note)


def _registered(model_id: str) -> str | None:
    from sage.common.model_registry.vllm_registry import list_models

    found = [model.commit for model in list_models() if model.model_id == model_id]
    return f"{model_id}@{found[-1]}" if found else None
