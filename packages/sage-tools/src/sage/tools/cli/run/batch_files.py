"""A file of records in, a file with their answers or vectors out; a run that stopped goes on."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.checkpoint import CheckpointError, CheckpointMismatchError
from sage.kernel.runtime.service import ServiceFactory
from sage.libs.io import JSONLSink
from sage.libs.operators.vllm_service import VLLMEmbeddingOperator, VLLMServiceGenerator
from sage.tools.cli.errors import CommandError, Interrupted
from sage.tools.cli.run.batch_input import CountedJSONLSource, PromptOf, TextOf, count_records
from sage.tools.cli.run.finished_run import FinishedRun
from sage.tools.cli.run.loading import ShownService
from sage.tools.cli.terminal.output import write_json, write_note

_SERVICE = "vllm_service"


@dataclass(frozen=True, kw_only=True)
class BatchFiles:
    """Generates, or embeds if there is no text model, for each record of a file."""

    source: Path
    output: Path
    system: str | None = None
    overwrite: bool = False
    as_json: bool = False
    quiet: bool = False

    def run(self, config: VLLMServiceConfig) -> None:
        """Do it; raises CommandError if a record failed, or if the output is not this run's."""
        total = count_records(self.source, _keys(config))
        if self.source.resolve() == self.output.resolve():
            raise CommandError("the output is the input itself", "Name another --output.")
        job = _Job(config, self.source, self.output, system=self.system)
        if job.begin(overwrite=self.overwrite):
            self._submit(self._pipeline(config, total, job), job)
        else:
            write_note(
                f"{self.output} is complete already, {total:,} records; --overwrite makes it anew.",
                quiet=self.quiet,
            )
        failed = job.end()
        if self.as_json:
            write_json({"output": str(self.output), "records": total, "failed": failed})
        if failed:
            raise CommandError(
                f"{failed:,} of {total:,} records failed", f"{job.failed} has each with its error."
            )

    def _pipeline(self, config: VLLMServiceConfig, total: int, job: _Job) -> LocalEnvironment:
        env = LocalEnvironment("run")
        service = ServiceFactory(
            service_class=ShownService, args=(config,), kwargs={"quiet": self.quiet}
        )
        env.register_service_factory(_SERVICE, service)
        stream = env.from_source(CountedJSONLSource, self.source, total, name="read")
        dead_letters = partial(JSONLSink, job.failed)
        if config.model_id is None:
            # The model is an argument, so that no other one goes on with the run.
            stream = stream.map(TextOf, model_id=config.embedding_model_id, name="text")
            stream = stream.map(
                VLLMEmbeddingOperator, _SERVICE, on_error=dead_letters, name="embed"
            )
        else:
            stream = stream.map(PromptOf, _SERVICE, model_id=config.model_id, name="prompt")
            stream = stream.map(
                VLLMServiceGenerator,
                _SERVICE,
                system_prompt=self.system,
                options_key="options",
                merge_fields=False,
                retries=2,
                on_error=dead_letters,
                name="generate",
                **config.sampling,
            )
        stream.sink(JSONLSink, self.output, name="write")
        return env

    def _submit(self, env: LocalEnvironment, job: _Job) -> None:
        try:
            env.submit(checkpoint=job.checkpoint, progress=not self.quiet)
        except KeyboardInterrupt:
            without = " without --overwrite" if self.overwrite else ""
            raise Interrupted(
                f"Run the same command again{without} to go on where it was."
            ) from None
        except CheckpointMismatchError as error:
            raise CommandError(
                f"another run into {job.output} is not at its end: {error.reason}",
                "Finish it with the command that began it, or begin anew with --overwrite.",
            ) from error
        except CheckpointError as error:
            raise CommandError(
                error.problem, "Wait for its end, or name another output."
            ) from error


def _keys(config: VLLMServiceConfig) -> tuple[str, ...]:
    return TextOf.keys if config.model_id is None else PromptOf.keys


class _Job:
    """The files of a run beside its output."""

    def __init__(
        self, config: VLLMServiceConfig, source: Path, output: Path, *, system: str | None
    ) -> None:
        self.output = output
        self.checkpoint = output.with_name(f"{output.name}.checkpoint")
        self.failed = output.with_name(f"{output.name}.failed")
        self._run = FinishedRun(config, source, (output, self.failed), system=system)

    def begin(self, *, overwrite: bool) -> bool:
        """Make ready to write; False if all is done. Raises CommandError."""
        if self.output.is_dir():
            raise CommandError(f"{self.output} is a folder", "Name a file with --output.")
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.output.parent):
                pass
        except OSError as error:
            raise CommandError(
                f"cannot write to {self.output.parent}: {error.strerror or error}",
                "Name an --output in a folder that you can write.",
            ) from error
        if overwrite:
            shutil.rmtree(self.checkpoint, ignore_errors=True)
        elif self.output.exists() and not self.checkpoint.exists():
            if not (difference := self._run.difference()):
                return False
            raise CommandError(
                f"{self.output} is there already, and {difference}",
                "Name another --output, or replace it with --overwrite.",
            )
        return True

    def end(self) -> int:
        """Tidy up after a complete run; returns how many records failed."""
        failed = _line_count(self.failed)
        if not failed:
            self.failed.unlink(missing_ok=True)
        self._run.write()
        shutil.rmtree(self.checkpoint, ignore_errors=True)  # last: without it, it is at its end
        return failed


def _line_count(path: Path) -> int:
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        return sum(1 for _ in file)
