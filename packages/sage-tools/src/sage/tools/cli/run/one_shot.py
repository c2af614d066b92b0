"""One prompt, one answer: for scripts, pipes and quick questions."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.requests.result_types import GenerateResult
from sage.common.components.sage_vllm.requests.sampling_options import makes_json
from sage.tools.cli.errors import CommandError, Interrupted
from sage.tools.cli.run.answer import (
    ShownAnswer,
    takes_conversations,
    why_cut_off,
    write_why_cut_off,
)
from sage.tools.cli.run.loading import ShownService
from sage.tools.cli.terminal.download_display import clip
from sage.tools.cli.terminal.output import write_json, write_note

_SHOWN = 200  # characters of an answer in an error


@dataclass(frozen=True, kw_only=True)
class OneShot:
    """Answers a prompt on stdout: the text as it comes, its JSON, or the whole result as JSON."""

    text: str
    images: tuple[Path, ...] = ()
    system: str | None
    hide_reasoning: bool
    as_json: bool
    quiet: bool

    def run(self, config: VLLMServiceConfig) -> None:
        """Load the model and answer; raises CommandError for JSON that was cut off."""
        shown = ShownAnswer()
        try:
            with ShownService(config, quiet=self.quiet) as service:
                prompt = self._prompt(service)
                if self.as_json or makes_json(config.sampling):
                    (result,) = service.generate([prompt])
                    _write_result(result, _context(service), as_json=self.as_json)
                    return
                shown = ShownAnswer(hide_reasoning=self.hide_reasoning)
                with service.stream(prompt) as stream:
                    result = shown.show(stream)
                shown.end_line()
                context = _context(service)
            write_why_cut_off(result, context, quiet=self.quiet)
            shown.write_figures(result, quiet=self.quiet)
        except KeyboardInterrupt:
            if not shown.text:
                raise Interrupted("Nothing was generated yet.") from None
            shown.end_line()
            raise Interrupted("The answer ends where it was stopped.") from None

    def _prompt(self, service: ShownService) -> Any:
        if takes_conversations(service):
            before = [] if self.system is None else [{"role": "system", "content": self.system}]
            return [*before, {"role": "user", "content": self._content()}]
        model_id = service.config.model_id
        if self.system is not None or self.images:
            what = "system prompt" if self.system is not None else "pictures"
            raise CommandError(
                f"{model_id} has no chat template, so it takes no {what}",
                "Put it into the prompt, or take an instruction-tuned model.",
            )
        write_note(
            f"{model_id} has no chat template: it completes the text as it is.", quiet=self.quiet
        )
        return self.text

    def _content(self) -> Any:
        if not self.images:
            return self.text
        pictures = [{"type": "image", "image": str(path)} for path in self.images]
        return [*pictures, {"type": "text", "text": self.text}]


def _context(service: ShownService) -> int:
    return int(service.stats()["engine"]["max_model_len"])


def _write_result(result: GenerateResult, context: int, *, as_json: bool) -> None:
    if as_json:
        write_json(result)
    elif result["parsed"] is None:
        where, way_out = why_cut_off(result, context) or ("at a --stop text", "Give another one")
        raise CommandError(
            f"the answer was cut off {where}, before its JSON was complete: "
            f"{clip(result['text'], _SHOWN)}",
            f"{way_out}; --json shows the whole result.",
        )
    else:
        json.dump(result["parsed"], sys.stdout, indent=2, ensure_ascii=False)
        print()
