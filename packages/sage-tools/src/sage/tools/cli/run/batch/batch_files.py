"""A file of records in, a file with their answers or vectors out; a run that stopped goes on."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.kernel.api import (
    CheckpointError,
    CheckpointMismatchError,
    InputChangedError,
    LocalEnvironment,
)
from sage.kernel.runtime.service import ServiceFactory
from sage.libs.io import JSONLSink
from sage.libs.io.output_file import output_path
from sage.tools.cli.errors import CommandError, Interrupted
from sage.tools.cli.run.batch.finished_run import INPUT_GREW, RETRY_FAILED, FinishedRun
from sage.tools.cli.run.batch.line_task import LineTask
from sage.tools.cli.run.batch.lines import InputFacts, Lines, check_first_lines
from sage.tools.cli.run.batch.missing_lines import MissingLines, finish_merge
from sage.tools.cli.run.batch.run_files import RunFiles
from sage.tools.cli.run.loading import ShownService
from sage.tools.cli.terminal.output import write_json, write_note

_SERVICE = "vllm_service"

MakePipeline = Callable[..., LocalEnvironment]
"""Makes one that reads a file: takes the RunFiles, its path, and perhaps its InputFacts."""


@dataclass(frozen=True, kw_only=True)
class BatchFiles:
    """Generates for each record of a file, embeds or scores it, by what model there is.

    A ``query`` is what records are scored for; ``labels`` a text model chooses among.
    """

    source: Path
    output: Path
    system: str | None = None
    query: str | None = None
    labels: Sequence[str] | None = None
    template: str | None = None
    overwrite: bool = False
    retry_failed: bool = False
    input_grew: bool = False
    as_json: bool = False
    quiet: bool = False

    def run(self, config: VLLMServiceConfig) -> None:
        """Do it; raises CommandError if a record failed, or if the output is not this run's.

        Raises OutputFileError for an output that is no file.
        """
        self._check_files()
        task = LineTask.of(config, system=self.system, query=self.query, labels=self.labels)
        check_first_lines(self.source, task.form(self.template))
        files = RunFiles(self.output)
        finish_merge(files)
        if self.overwrite:
            files.forget_unfinished()
        made_by = FinishedRun(config, self.source, task=task, template=self.template)
        pipeline = partial(self._pipeline, config, task)
        if files.output.exists() and not files.checkpoint.exists() and not self.overwrite:
            self._run_missing(pipeline, files, made_by)
        else:
            self._run_all(pipeline, files, made_by)
        self._report(files)

    def _check_files(self) -> None:
        if self.source.exists() and not (self.source.is_file() or self.source.is_dir()):
            raise CommandError(
                f"{self.source} cannot be read twice, as a run that goes on has to",
                "Write it into a file, and name that with --input.",
            )
        if self.source.resolve() == self.output.resolve():
            raise CommandError("the output is the input itself", "Name another --output.")
        if self.source.is_dir() and self.source.resolve() == self.output.resolve().parent:
            raise CommandError(
                f"the output is in {self.source}, whose files are the input",
                "Name an --output in another folder.",
            )
        output_path(self.output)
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.output.parent):
                pass
        except OSError as error:
            raise CommandError(
                f"cannot write to {self.output.parent}: {error.strerror or error}",
                "Name an --output in a folder that you can write.",
            ) from error

    def _run_all(self, pipeline: MakePipeline, files: RunFiles, made_by: FinishedRun) -> None:
        """Begin a run, or go on with one that was stopped."""
        if self.retry_failed:
            raise CommandError(
                f"the run into {self.output} is not at its end, and may not have met all of them",
                "Finish it first: the same command without --retry-failed.",
            )
        self._submit(pipeline(files, self.source), files, grew=self.input_grew)
        files.drop_empty_failed()
        made_by.write(files)
        # Last: without it, the run is at its end.
        shutil.rmtree(files.checkpoint, ignore_errors=True)

    def _run_missing(self, pipeline: MakePipeline, files: RunFiles, made_by: FinishedRun) -> None:
        """Add to a run that is at its end what was asked for; raises CommandError if it differs."""
        asked = {RETRY_FAILED: self.retry_failed, INPUT_GREW: self.input_grew}
        new: frozenset[str] = frozenset()
        if difference := made_by.difference(files):
            new = difference.flags
            if not new or not all(asked[flag] for flag in new):
                add = f"Run these lines with {' and '.join(sorted(new))}, or" if new else ""
                anew = "make all anew with --overwrite."
                raise CommandError(
                    f"{self.output} is there already, and {difference.reason}",
                    f"{add or 'Name another --output, or'} {anew}",
                )
        retries = self.retry_failed and files.count()[1] > 0
        if not retries and INPUT_GREW not in new:
            what = (
                "No record failed: there is nothing to run again."
                if self.retry_failed
                else f"{self.output} is complete already, {files.count()[0]:,} records; "
                f"--overwrite makes it anew."
            )
            write_note(what, quiet=self.quiet)
            return
        missing = MissingLines(self.source, files, failed=retries, added=INPUT_GREW in new)
        missing.begin()
        facts = InputFacts(origins=missing.origins)
        self._submit(pipeline(missing.files, missing.source, facts), missing.files, grew=True)
        missing.merge(made_by)

    def _submit(self, env: LocalEnvironment, files: RunFiles, *, grew: bool) -> None:
        try:
            env.submit(
                checkpoint=files.checkpoint,
                progress=not self.quiet,
                input_grew="continue" if grew else "refuse",
            )
        except KeyboardInterrupt:
            begun = self.overwrite and files.checkpoint.exists()
            without = " without --overwrite" if begun else ""
            raise Interrupted(
                f"Run the same command again{without} to go on where it was."
            ) from None
        except CheckpointMismatchError as error:
            only_grew = isinstance(error, InputChangedError) and error.grew
            raise CommandError(
                f"another run into {self.output} is not at its end: {error.reason}",
                "Go on with the lines that were added with --input-grew, or begin anew with "
                "--overwrite."
                if only_grew
                else "Finish it with the command and the input that began it, or begin anew with "
                "--overwrite.",
            ) from error
        except CheckpointError as error:
            raise CommandError(
                error.problem, "Wait for its end, or name another output."
            ) from error

    def _pipeline(
        self,
        config: VLLMServiceConfig,
        task: LineTask,
        files: RunFiles,
        source: Path,
        facts: InputFacts | None = None,
    ) -> LocalEnvironment:
        env = LocalEnvironment("run")
        service = ServiceFactory(
            service_class=ShownService, args=(config,), kwargs={"quiet": self.quiet}
        )
        env.register_service_factory(_SERVICE, service)
        stream = env.from_source(Lines, source, facts or InputFacts(), name="read")
        letters = partial(JSONLSink, files.failed)
        stream = stream.map(
            task.operator,
            _SERVICE,
            template=self.template,
            on_error=letters,
            name=task.name,
            **task.arguments,
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
