"""What becomes of the output: read late, not at all, or not to be written; and the exit code."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from command_line import SAGE, TIMEOUT
from recorded_server import program, service

from sage.common.model_registry import vllm_registry

if TYPE_CHECKING:
    from pathlib import Path

    from command_line import CommandLine

LOGGING = """
from pathlib import Path
log = Path(sys.argv[1])
log.write_text("first\\n")
record = recorded(8000)
record.update(log=str(log))
ready("up")
for line in sys.stdin:
    with log.open("a") as file:
        file.write(line.rstrip())  # the line is at its end only when the next one begins
        file.flush()
"""


@pytest.fixture
def in_a_shell(sage: CommandLine) -> InAShell:
    return InAShell(sage)


class InAShell:
    """A function that runs `sage` in a line of bash, where it is called "$@"."""

    def __init__(self, sage: CommandLine) -> None:
        self._sage = sage

    def __call__(self, line: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line}", "bash", *SAGE],
            env={**self._sage.environment, **extra},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )


class TestInAPipe:
    def test_status_comes_at_once_time_after_time(
        self, sage: CommandLine, environment: dict[str, str]
    ) -> None:
        with service(environment):
            process = sage.start("llm", "status", "--watch", "--json", **environment)
            assert process.stdout is not None
            decoder, text, found = json.JSONDecoder(), "", 0
            while found < 2:
                text += process.stdout.readline()
                if text.endswith("]\n") and not text.endswith(" ]\n"):
                    ((record,), _) = decoder.raw_decode(text)
                    assert record["name"] == "writer"
                    text, found = "", found + 1
            assert process.poll() is None

    def test_a_log_comes_at_once_and_to_its_last_byte(
        self, sage: CommandLine, environment: dict[str, str], tmp_path: Path
    ) -> None:
        code = LOGGING.replace("sys.argv[1]", repr(str(tmp_path / "log")))
        with program(code, environment) as (server, _):
            assert server.stdin is not None
            process = sage.start("llm", "logs", "-f", **environment)
            assert process.stdout is not None
            assert process.stdout.readline() == "first\n"
            server.stdin.write("second\n")
            server.stdin.close()
            out, err = process.communicate(timeout=TIMEOUT)
            assert (process.returncode, out, err) == (0, "second\n", "")

    def test_a_log_as_json_is_an_object_a_line(
        self, sage: CommandLine, environment: dict[str, str], tmp_path: Path
    ) -> None:
        code = LOGGING.replace("sys.argv[1]", repr(str(tmp_path / "log")))
        with program(code, environment):
            done = sage("llm", "logs", "--json", **environment)
            assert done.stdout == '{"line": "first"}\n'


class TestThatIsNotRead:
    def test_a_failure_stays_one(self, in_a_shell: InAShell, source: Path, root: Path) -> None:
        model = vllm_registry.import_model("owner/name", source, root=root)
        (model.path / "config.json").write_text("damaged")
        done = in_a_shell('"$@" llm model verify | true')
        assert done.returncode == 1
        done = in_a_shell('"$@" llm model show | true')
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.parametrize("debug", ["", "1"])
    @pytest.mark.parametrize(
        ("arguments", "code"), [("llm model show no/such", 1), ("llm modl", 2), ("--version", 0)]
    )
    def test_an_error_keeps_its_code(
        self, arguments: str, code: int, debug: str, in_a_shell: InAShell
    ) -> None:
        assert in_a_shell(f'"$@" {arguments} 2>&1 | true', SAGE_DEBUG=debug).returncode == code


class TestThatCannotBeWritten:
    @pytest.mark.parametrize("arguments", ["llm model show --json", "--version", "--help"])
    def test_a_full_disk_is_an_error(self, arguments: str, in_a_shell: InAShell) -> None:
        done = in_a_shell(f'"$@" {arguments} > /dev/full')
        assert done.returncode == 1
        error, hint = done.stderr.splitlines()
        assert error == "Error: [Errno 28] No space left on device"
        assert hint.startswith("Hint: ")

    @pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
    @pytest.mark.parametrize(
        ("arguments", "code"),
        [("--version", 0), ("llm model show", 0), ("llm model show no/such", 1)],
    )
    def test_closed_streams_change_no_code(
        self, arguments: str, code: int, closed: str, in_a_shell: InAShell, source: Path, root: Path
    ) -> None:
        vllm_registry.import_model("owner/name", source, root=root)
        done = in_a_shell(f'"$@" {arguments} {closed}')
        assert done.returncode == code
        assert "Traceback" not in done.stderr
