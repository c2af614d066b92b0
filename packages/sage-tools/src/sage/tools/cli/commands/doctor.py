"""`sage llm doctor`: does everything work that a model needs, and if not, what to do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from sage.tools.cli.commands.options.model_options import Display
from sage.tools.cli.terminal.output import escape, is_rich, write_json, write_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sage.tools.cli.doctor.finding import Check, Finding

_COLOURS = {"ok": "32", "warning": "33", "problem": "31"}


def doctor(display: Display) -> None:
    """Check what models need here: packages, device, memory, registry, hub, settings.

    Each finding is ok, a warning or a problem, the last two with what to do. The exit code is 1
    if there is a problem. With --quiet only warnings and problems are shown.
    """
    from sage.tools.cli.doctor.finding import Status, run_checks
    from sage.tools.cli.errors import Interrupted
    from sage.tools.cli.terminal.status_line import status_line

    findings = []
    try:
        with status_line(quiet=display.quiet) as show:
            for finding in run_checks(_checks(), show):
                findings.append(finding)
                if not display.as_json and not (display.quiet and finding.status is Status.OK):
                    _write(finding)
    except KeyboardInterrupt:
        raise Interrupted("It only looks: nothing was changed.") from None
    counts = {status: sum(each.status is status for each in findings) for status in Status}
    problems, warnings = counts[Status.PROBLEM], counts[Status.WARNING]
    if display.as_json:
        write_json({"ok": not problems, "checks": [finding.to_json() for finding in findings]})
    elif problems or warnings:
        write_note(f"{_counted(problems, 'problem')}, {_counted(warnings, 'warning')}.")
    else:
        write_note("All is well.", quiet=display.quiet)
    if problems:
        raise typer.Exit(1)


def _checks() -> list[Check]:
    from sage.tools.cli.doctor import engines, environment, machine, models, packages
    from sage.tools.cli.doctor.finding import Check

    def look_at_vllm() -> Sequence[Finding]:
        return packages.check_vllm(has_gpu=machine.has_gpu())

    return [
        Check(name="Python", look=packages.check_python),
        Check(name="SAGE", look=packages.check_sage),
        Check(name="Device", look=machine.check_device),
        Check(name="Memory", look=machine.check_memory),
        Check(name="Disk", look=machine.check_disk),
        Check(name="Registry", look=models.check_registry),
        Check(name="Model", look=engines.check_models, seconds=engines.SECONDS),
        Check(name="Run folder", look=models.check_run_folder),
        Check(name="Hub", look=models.check_hub),
        Check(name="vLLM", look=look_at_vllm, seconds=packages.IMPORT_SECONDS + 10),
        Check(name="Environment", look=environment.check_environment),
    ]


def _write(finding: Finding) -> None:
    """Print a finding, on a terminal fitted to its width."""
    from sage.tools.cli.terminal.wrapping import is_narrow, stdout_width, wrapped

    status = finding.status.value
    width = stdout_width()
    colour = f"\x1b[{_COLOURS[status]}m" if is_rich(sys.stdout) else ""
    plain = "\x1b[0m" if colour else ""
    column = 0 if is_narrow(width) else 13
    named = f"{finding.name:<{column}}" if column else f"{finding.name}: "
    text = [f"{named}{finding.detail}"]
    if finding.fix:
        text.append(f"{'':<{column}}Fix: {finding.fix}")
    lines = [line for each in text for line in wrapped(escape(each), width - 9, column)]
    print(f"{colour}{status:<9}{plain}{lines[0]}")
    for line in lines[1:]:
        print(f"{'':<9}{line}")
    sys.stdout.flush()


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
