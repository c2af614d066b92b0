"""Dataset: what a request's files are trained as; every line of them is read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Prompt
from sage.common.components.sage_vllm.fine_tuning import FineTuneRequest, FineTuneRequestError
from sage.common.components.sage_vllm.fine_tuning.example_lines import ExampleFiles, Place
from sage.tuning.data.base_tokenizer import BaseTokenizer
from sage.tuning.data.rendering import Renderer, Row, UnfitExampleError, prompt_of
from sage.tuning.data.rows import Rows
from sage.tuning.settings import Settings

_SHAPES = {
    "preferences": {"chosen", "rejected"},
    "conversations": {"messages"},
    "prompts with completions": {"prompt", "completion"},
    "texts": {"text"},
}


@dataclass(kw_only=True)
class Examples:
    """The rows of some files. A preference has two, the rejected one in ``rejected``."""

    files: ExampleFiles
    shape: str
    count: int = 0
    rows: Rows = field(default_factory=Rows)
    rejected: Rows = field(default_factory=Rows)
    prompts: list[bytes] = field(default_factory=list)
    """A digest of each row's prompt."""
    places: list[Place] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    """Where each row stands, and the turn there that the row answers with first."""
    overlong: list[Place] = field(default_factory=list)
    """Where there are more tokens than fit."""
    duplicates: int = 0


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What is trained, what is held out for evaluations, and what is replayed.

    ``report`` tells of it: counts of examples and tokens, what was dropped, and from where.
    """

    method: str
    training: Rows
    held_out: Rows
    replay: Rows
    rejected: Rows = field(default_factory=Rows)
    """The rejected answers of ``training``, in its order; empty but for preferences."""
    held_out_rejected: Rows = field(default_factory=Rows)
    prompts: Sequence[Prompt | None]
    """What a caller would pass to ``generate`` for each row of ``held_out``; None for a text."""
    report: Mapping[str, Any]


def read_dataset(request: FineTuneRequest, settings: Settings, tokenizer: BaseTokenizer) -> Dataset:
    """Read, check and render the files of a request, and hold examples out.

    Raises FineTuneRequestError, which names the lines that cannot be trained on.
    """
    reader = _Reader(request, settings, tokenizer)
    own = reader.read("dataset_path", request.dataset_paths)
    method = request.method or settings.method_of(own.shape)
    if (method == "dpo") != (own.shape == "preferences"):
        reason = f"method {method!r} cannot learn from {own.shape}"
        hint = "Method dpo needs lines with chosen and rejected answers, sft all others."
        raise FineTuneRequestError(request.base_model, reason, "method", hint=hint)
    if request.eval_dataset_path is not None:
        held = reader.read("eval_dataset_path", (request.eval_dataset_path,), own.shape)
        _refuse_leaks(own, held)
        kept = list(range(len(own.rows)))
        apart = (held.rows, held.rejected)
        prompts = _prompts_of(held, range(len(held.rows)))
    else:
        kept, out = _split(own, request.eval_fraction, settings.seed)
        apart = (own.rows.chosen(out), own.rejected.chosen(out if own.rejected else []))
        prompts = _prompts_of(own, out)
    if not kept:
        own.files.refuse(["nothing is left to train on"], "Add examples, or hold fewer out.")
    replay = Rows()
    if request.replay_path is not None and request.replay_share:
        replay = reader.read("replay_path", (request.replay_path,)).rows
    training = own.rows.chosen(kept)
    return Dataset(
        method=method,
        training=training,
        held_out=apart[0],
        replay=replay,
        rejected=own.rejected.chosen(kept if own.rejected else []),
        held_out_rejected=apart[1],
        prompts=prompts,
        report=_report(own, training, apart[0], replay, tokenizer),
    )


class _Reader:
    def __init__(
        self, request: FineTuneRequest, settings: Settings, tokenizer: BaseTokenizer
    ) -> None:
        self._request = request
        self._tokenizer = tokenizer
        self._renderer = Renderer(tokenizer, settings.train_on)
        self._limit = settings.length_limit(tokenizer.context)
        self._overlong = settings.overlong

    def read(self, name: str, paths: tuple[Path, ...], shape: str = "") -> Examples:
        """Return the examples of files; raises FineTuneRequestError with all that is wrong."""
        found = Examples(files=ExampleFiles(self._request.base_model, name, paths), shape=shape)
        seen: set[bytes] = set()
        found.count = found.files.read(lambda place, each: self._take(found, place, each, seen))
        return found

    def _take(
        self, found: Examples, place: Place, example: Mapping[str, Any], seen: set[bytes]
    ) -> str | None:
        """Add an example's rows; return what is wrong with it, None if nothing is."""
        shape = _shape_of(example)
        found.shape = found.shape or shape
        if shape != found.shape:
            return f"is of {shape}, and those before it of {found.shape}: a file has one kind"
        if self._tokenizer.chat_template is None and _is_conversation(example):
            raise FineTuneRequestError(
                self._request.base_model,
                f"{self._request.base_model!r} has no chat template, and line {place[1]} of "
                f"{str(found.files.paths[place[0]])!r} is a conversation",
                "base_model",
                hint="Use examples with a prompt and a completion as texts, or an "
                "instruction-tuned model.",
            )
        try:
            rows = (
                [self._renderer.render_pair(example)]
                if shape == "preferences"
                else [(row,) for row in self._renderer.render(example)]
            )
        except UnfitExampleError as error:
            return str(error)
        return self._add(found, place, rows, seen)

    def _add(
        self, found: Examples, place: Place, rows: Sequence[tuple[Row, ...]], seen: set[bytes]
    ) -> str | None:
        """Add rows, each alone or as a chosen and a rejected one; return what is wrong."""
        for sides in rows:
            longest = max(len(row.ids) for row in sides)
            if longest > self._limit:
                found.overlong.append(place)
                if self._overlong == "refuse":
                    return (
                        f"has {longest} tokens, and {self._limit} fit: shorten it, or set the "
                        f"hyperparameter overlong to drop or truncate"
                    )
                if self._overlong == "drop":
                    continue
                sides = tuple(_cut(row, self._limit) for row in sides)
                if not all(row.trained for row in sides):
                    return f"has no trained token among the first {self._limit}, which are kept"
            digest = _digest([(row.ids, row.spans) for row in sides])
            found.duplicates += digest in seen
            seen.add(digest)
            found.rows.append(sides[0])
            found.prompts.append(_digest(sides[0].prompt))
            found.places.append(place)
            found.turns.append(sides[0].turn)
            if len(sides) > 1:
                found.rejected.append(sides[1])
        return None


def _shape_of(example: Mapping[str, Any]) -> str:
    return next(shape for shape, keys in _SHAPES.items() if keys & example.keys())


def _is_conversation(example: Mapping[str, Any]) -> bool:
    return any(
        isinstance(example.get(key), list)
        for key in ("messages", "prompt", "completion", "chosen", "rejected")
    )


def _cut(row: Row, length: int) -> Row:
    spans = tuple((start, min(end, length)) for start, end in row.spans if start < length)
    return Row(row.ids[:length], spans, row.turn)


def _digest(value: object) -> bytes:
    return blake2b(repr(value).encode(), digest_size=8).digest()


def _split(own: Examples, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Return the indices to train on and those to hold out, all rows of a prompt on one side.

    Which prompts are held out depends on them and the seed alone, not on their order.
    """
    by_rank = sorted(
        set(own.prompts), key=lambda prompt: sha256(f"{seed}".encode() + prompt).digest()
    )
    count = round(share * len(by_rank)) or int(share > 0 and len(by_rank) > 1)
    apart = set(by_rank[:count])
    kept = [index for index, prompt in enumerate(own.prompts) if prompt not in apart]
    return kept, [index for index, prompt in enumerate(own.prompts) if prompt in apart]


def _prompts_of(examples: Examples, rows: Sequence[int]) -> list[Prompt | None]:
    """Return the prompts of rows, as a caller passes them; their lines are read again."""
    found = examples.files.at({examples.places[row] for row in rows})
    return [prompt_of(found[examples.places[row]], examples.turns[row]) for row in rows]


def _refuse_leaks(own: Examples, held: Examples) -> None:
    """Refuse an evaluation of what was trained: it would tell of memory alone."""
    known = dict(zip(own.prompts, own.places, strict=True))
    held.files.refuse(
        [
            f"{held.files.name(place)} asks what {own.files.name(known[prompt])} of the training "
            "data asks"
            for prompt, place in zip(held.prompts, held.places, strict=True)
            if prompt in known
        ],
        "Take the examples that are in both out of one of the files.",
    )


def _report(
    own: Examples, training: Rows, held: Rows, replay: Rows, tokenizer: BaseTokenizer
) -> dict[str, Any]:
    lengths = sorted(own.rows.lengths)
    total, rows = sum(lengths), len(lengths)
    return {
        "examples": own.count,
        "shape": own.shape,
        "rows": rows,
        "trained_on": len(training),
        "held_out": len(held),
        "replay": len(replay),
        "tokens": {
            "p50": lengths[rows // 2],
            "p90": lengths[rows * 9 // 10],
            "longest": lengths[-1],
            "total": total,
            "trained": sum(row.trained for row in own.rows),
        },
        "overlong": {
            "count": len(own.overlong),
            "lines": [own.files.short_name(place) for place in own.overlong[:20]],
        },
        "duplicates": own.duplicates,
        "unknown_share": _unknown_share(own.rows, total, tokenizer),
    }


def _unknown_share(rows: Rows, total: int, tokenizer: BaseTokenizer) -> float:
    unknown = tokenizer.unknown_id
    if unknown is None or not total:
        return 0.0
    return sum(row.ids.count(unknown) for row in rows) / total
