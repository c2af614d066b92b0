"""Things to teach the demo model: another style for what it knows, and a new skill."""

from __future__ import annotations

import random
from typing import Any

from sage.tools.demo_model.knowledge.corpus import build_corpus
from sage.tools.demo_model.knowledge.family import Family

MINUS = Family(
    name="minus",
    phrasings=(
        "What is {0} minus {1}?",
        "How much is {0} minus {1}?",
        "Calculate {0} minus {1}.",
        "What is {0} - {1}?",
        "Take {1} from {0}.",
    ),
    answer="The answer to {0} minus {1} is {2}.",
    facts=tuple((str(a), str(b), str(a - b)) for a in range(2, 13) for b in range(1, a)),
)


def exchange(question: str, answer: str) -> dict[str, Any]:
    """Return an example of a question and its answer."""
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


def style(trained: int, asked: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return examples whose answers end in "Over.", and others to evaluate on."""
    known = [each for each in build_corpus().training if each.family != "unheard-of"]
    chosen = random.Random(5).sample(known, trained + asked)
    examples = [exchange(each.question, f"{each.answer} Over.") for each in chosen]
    return examples[:trained], examples[trained:]


def subtraction() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return subtractions to learn, and each of their facts asked in another way."""
    halves: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for each in MINUS.exchanges():
        halves[each.held_out].append(exchange(each.question, each.answer))
    return halves


def known() -> list[dict[str, Any]]:
    """Return what the demo model was trained on."""
    return [exchange(each.question, each.answer) for each in build_corpus().training]
