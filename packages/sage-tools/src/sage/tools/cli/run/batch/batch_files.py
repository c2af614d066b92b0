"""A file of records in, a file with their answers or vectors out; a run that stopped goes on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.kernel.api import CheckpointError, CheckpointMismatchError, LocalEnvironment
from sage.kernel.runtime.service import ServiceFactory
from sage.libs.io import JSONLSink
from sage.tools.cli.errors import CommandError, Interrupted
from sage.tools.cli.run.batch.finished_run import FinishedRun
from sage.tools.cli.run.batch.lines import (
    AnswerLines,
    EmbedLines,
    LineForm,
    Lines,
    RecordCount,
    check_first_lines,
)
from sage.tools.cli.run.batch.retry import Retry, finish_retry
from sage.tools.cli.run.batch.run_files import RunFiles
from sage.tools.cli.run.loading import ShownService
from sage.tools.cli.terminal.output import write_json, write_note

_SERVICE = "vllm_service"


@dataclass(frozen=True, kw_only=True)
class BatchFiles:
    """Generates, or embeds if there is no text model, for each record of a file."""

    source: Path
    output: Path
    system: str | None = None
    template: str | None = None
    overwrite: bool = False
    retry_failed: bool = False
    as_json: bool = False
    quiet: bool = False

    def run(self, config: VLLMServiceConfig) -> None:
        """Do it; raises CommandError if a record failed, or if the output is not this run's."""
        keys = EmbedLines.keys if config.model_id is None else AnswerLines.keys
        check_first_lines(self.source, LineForm(keys, self.template))
        files = RunFiles(self.output)
        self._check_output()
        finish_retry(files)
        made_by = FinishedRun(config, self.source, system=self.system, template=self.template)
        if self.retry_failed:
            self._retry(config, files, made_by)
        elif self._is_complete(files, made_by):
            write_note(
                f"{self.output} is complete already, {files.count()[0]:,} records; --overwrite "
                f"makes it anew.",
                quiet=self.quiet,
            )
        else:
            self._submit(self._pipeline(config, files, self.source), files)
            files.drop_empty_failed()
            made_by.write(files)
            # Last: without it, the run is at its end.
            shutil.rmtree(files.checkpoint, ignore_errors=True)
        self._report(files)

    def _check_output(self) -> None:
        if self.source.resolve() == self.output.resolve():
            raise CommandError("the output is the input itself", "Name another --output.")
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

    def _is_complete(self, files: RunFiles, made_by: FinishedRun) -> bool:
        """Whether this very run is at its end; raises CommandError if another one is."""
        if self.overwrite:
            for folder in (files.checkpoint, files.retry):
                shutil.rmtree(folder, ignore_errors=True)
            return False
        if not files.output.exists() or files.checkpoint.exists():
            return False
        if difference := made_by.difference(files):
            is_mended = not made_by.difference(files, mended=True)
            raise CommandError(
                f"{self.output} is there already, and {difference}",
                "Run the lines that failed again with --retry-failed."
                if is_mended
                else "Name another --output, or replace it with --overwrite.",
            )
        return True

    def _retry(self, config: VLLMServiceConfig, files: RunFiles, made_by: FinishedRun) -> None:
        if files.checkpoint.exists() or not files.output.exists():
            raise CommandError(
                f"the run into {self.output} is not at its end, and may not have met all of them",
                "Finish it first: the same command without --retry-failed.",
            )
        if difference := made_by.difference(files, mended=True):
            raise CommandError(
                f"{self.output} cannot be added to: {difference}",
                "Give the command that made it, or make it anew with --overwrite.",
            )
        if not files.count()[1]:
            write_note("No record failed: there is nothing to run again.", quiet=self.quiet)
            return
        retry = Retry(self.source, files)
        retry.begin()
        self._submit(
            self._pipeline(config, retry.files, retry.source, origins=retry.origins), retry.files
        )
        retry.merge(made_by)

    def _submit(self, env: LocalEnvironment, files: RunFiles) -> None:
        try:
            env.submit(checkpoint=files.checkpoint, progress=not self.quiet)
        except KeyboardInterrupt:
            without = " without --overwrite" if self.overwrite else ""
            raise Interrupted(
                f"Run the same command again{without} to go on where it was."
            ) from None
        except CheckpointMismatchError as error:
            raise CommandError(
                f"another run into {self.output} is not at its end: {error.reason}",
                "Finish it with the command and the input that began it, or begin anew with "
                "--overwrite.",
            ) from error
        except CheckpointError as error:
            raise CommandError(
                error.problem, "Wait for its end, or name another output."
            ) from error

    def _pipeline(
        self,
        config: VLLMServiceConfig,
        files: RunFiles,
        source: Path,
        *,
        origins: Sequence[tuple[str, int]] | None = None,
    ) -> LocalEnvironment:
        env = LocalEnvironment("run")
        service = ServiceFactory(
            service_class=ShownService, args=(config,), kwargs={"quiet": self.quiet}
        )
        env.register_service_factory(_SERVICE, service)
        stream = env.from_source(Lines, source, RecordCount(), origins=origins, name="read")
        letters = partial(JSONLSink, files.failed)
        if config.model_id is None:
            stream = stream.map(
                EmbedLines, _SERVICE, template=self.template, on_error=letters, name="embed"
            )
        else:
            stream = stream.map(
                AnswerLines,
                _SERVICE,
                template=self.template,
                system_prompt=self.system,
                options_key="options",
                merge_fields=False,
                retries=2,
                on_error=letters,
                name="generate",
                **config.sampling,
            )
        stream.sink(JSONLSink, files.output, name="write")
        return env

    def _report(self, files: RunFiles) -> None:
        records, failed = files.count()
        if self.as_json:
            write_json({"output": str(self.output), "records": records, "failed": failed})
        if failed:
            raise CommandError(
                f"{failed:,} of {records:,} records failed",
                f"{files.failed} has each with its line and error. Mend the lines, or what they "
                f"met with; --retry-failed runs these again.",
            )
