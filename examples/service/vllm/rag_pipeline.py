"""Answers questions from a folder of Markdown files, and says from which of their sections.

    python examples/service/vllm/rag_pipeline.py docs-public "How is a model deleted?"

A text model and a sentence model run in this process, in one vLLM service; both come from the
registry, and are downloaded first if they are not there. The texts are kept in a folder, with their
vectors. The answers follow a JSON schema, so that they cannot cite a source that was not given.

It needs a model that can read. The tiny demo model cannot: it knows its own few facts alone, and
gives nonsense here, with any sources.
"""

from __future__ import annotations

import re
import sys
import textwrap
from argparse import ArgumentParser, RawTextHelpFormatter
from pathlib import Path
from typing import Any

from sage.common.core.functions import MapFunction
from sage.kernel.api import LocalEnvironment
from sage.libs.operators import VLLMServiceGenerator
from sage.middleware.services.memory import register_memory_service
from sage.middleware.services.vllm import register_vllm_service

LONGEST_TEXT = 800  # characters, which sentence models read to the end
SYSTEM = "Answer in a sentence or two, from the numbered sources alone, and name those you used."
PROMPT = "{sources}\n\nQuestion: {question}"


def read(folder: Path) -> dict[str, str]:
    """Return the sections of all Markdown files, each by its file and number."""
    texts: dict[str, str] = {}
    for path in sorted(folder.rglob("*.md")):
        pieces = [
            piece
            for section in re.split(r"\n(?=#+ )", path.read_text())
            for piece in textwrap.wrap(section, LONGEST_TEXT, replace_whitespace=False)
        ]
        texts |= {f"{path.relative_to(folder)}#{n}": piece for n, piece in enumerate(pieces)}
    return texts


def ingest(env: LocalEnvironment, texts: dict[str, str]) -> None:
    """Make the memory hold these texts and no others; a kill in between loses none."""
    memory = env.service("memory")
    files = [{"file": text_id.rpartition("#")[0]} for text_id in texts]
    memory.upsert_batch(list(texts), list(texts.values()), files)
    memory.delete(where={"id": {"not in": list(texts)}})
    print(f"{memory.count()} texts in memory", file=sys.stderr)


class Retrieve(MapFunction):
    """Makes of a question a record with the texts that are nearest to it."""

    def __init__(self, count: int) -> None:
        self.count = count

    def execute(self, question: str) -> dict[str, Any]:
        """Search the memory, which has the vLLM service embed the question."""
        hits = self.call_service("memory", question, method="search", k=self.count)
        return {
            "question": question,
            "places": [f"{hit.id}: {hit.text.splitlines()[0][:60]}" for hit in hits],
            "sources": "\n\n".join(f"[{n}] {hit.text}" for n, hit in enumerate(hits, 1)),
            "options": {"json_schema": answer_schema(len(hits))},
        }


def answer_schema(sources: int) -> dict[str, Any]:
    """Return the schema of an answer that cites some of so many sources."""
    number = {"enum": list(range(1, sources + 1))}
    return {
        "type": "object",
        "properties": {
            "cited": {"type": "array", "items": number, "minItems": 1, "maxItems": sources},
            "answer": {"type": "string", "maxLength": 300},
        },
        "required": ["cited", "answer"],
        "additionalProperties": False,
    }


def show(record: dict[str, Any]) -> None:
    """Print an answer and the pieces of text that it cites: file, number, beginning."""
    print(f"{record['question']}\n  {record['answer']}")
    for number in sorted(set(record["cited"])):
        print(f"  [{number}] {record['places'][number - 1]}")


def main() -> None:
    """Parse the arguments, ingest, answer."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, help="Markdown files, in subfolders too")
    parser.add_argument("questions", nargs="+")
    parser.add_argument("--model", default="Qwen/Qwen2.5-0.5B-Instruct")
    parser.add_argument("--embedding-model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--memory", default="rag_memory", help="the folder to keep the texts in")
    parser.add_argument("--sources", type=int, default=3, help="texts for each question")
    arguments = parser.parse_args()
    texts = read(arguments.folder)
    if not texts:
        parser.error(f"there is no Markdown file with text in {str(arguments.folder)!r}")
    models = {
        "model_id": arguments.model,
        "embedding_model_id": arguments.embedding_model,
        "auto_download": True,
        "sampling": {"temperature": 0},
    }
    memory = {"folder": arguments.memory, "embedding_service": "vllm_service"}
    with LocalEnvironment("rag") as env:
        register_vllm_service(env, "vllm_service", models)
        register_memory_service(env, "memory", {**memory, "fields": {"file": str}})
        ingest(env, texts)
        questions = env.from_collection(arguments.questions)
        questions.map(Retrieve, arguments.sources).map(
            VLLMServiceGenerator,
            system_prompt=SYSTEM,
            prompt_template=PROMPT,
            options_key="options",
        ).sink(show)
        env.submit()


if __name__ == "__main__":
    main()
