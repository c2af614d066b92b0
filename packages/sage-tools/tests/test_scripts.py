"""What a script prints of an error that it does not catch: all of standard error, each time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sage.common.core.errors import SageError
from sage.kernel.api import CheckpointMismatchError

HEAD = """\
import json, sys
from sage.common.core.errors import SageError
from sage.kernel.api import BaseService, LocalEnvironment
from sage.libs.io import JSONLSink, JSONLSource
from sage.libs.operators import VLLMServiceGenerator
from sage.middleware.services.vllm import register_vllm_service
env = LocalEnvironment("script")
"""
OTHER_PIPELINE = """
def clean(record):
    return 1 / (3 - record)
def tidy(record):
    return record
env.from_collection(range(5)).map(clean if len(sys.argv) > 1 else tidy).sink(JSONLSink, "out.jsonl")
env.submit(checkpoint="checkpoint")
"""
OWN_CODE = """
def parse(line):
    return json.loads(line)["text"]
env.from_collection(['{"text": 1}', '{"txt": 2}']).map(parse).sink(print)
env.submit()
"""
CHAINED = """
def parse(line):
    try:
        return json.loads(line)["text"]
    except KeyError as error:
        raise RuntimeError("no text") from error
env.from_collection(['{"txt": 2}']).map(parse).sink(print)
env.submit()
"""
CALLS_ANOTHER_SERVICE = """
def ask(record):
    return env.call_service("llm", record)
env.from_collection(["a"]).map(ask).sink(print)
env.submit()
"""
SERVICE_OF_ITS_OWN = """
class Table(BaseService):
    def process(self, key):
        return {}[key]
env.register_service("table", Table)
env.from_collection(["a"]).map(lambda key: env.call_service("table", key)).sink(print)
env.submit()
"""
WITH_CAUSE = """
try:
    {}["a"]
except KeyError as error:
    raise SageError("the problem", hint="do that") from error
"""


def run(folder: Path, script: str, *arguments: str, **environment: str) -> tuple[int, str]:
    """Return the exit status and standard error, which names lines of script.py."""
    file = folder / "script.py"
    file.write_text(HEAD + script.lstrip("\n"))
    done = subprocess.run(
        [sys.executable, file, *arguments],
        cwd=folder,
        env={**os.environ, "SAGE_VLLM_MODEL_ROOT": str(folder / "registry"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.replace(str(folder), "~")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            'register_vllm_service(env, config={"modle_id": "a/b"})',
            "~/script.py:8: InvalidOptionError: unknown configuration key 'modle_id'; "
            "did you mean 'model_id'?",
        ),
        (
            'register_vllm_service(env, {"model_id": "a/b"})',
            "~/script.py:8: TypeError: the second argument is the name to register the service by, "
            "not {'model_id': 'a/b'}; write register_vllm_service(env, config=...)",
        ),
        (
            'LocalEnvironment("script", {"chanel_capacity": 3})',
            "~/script.py:8: ValueError: unknown configuration 'chanel_capacity'; did you mean "
            "'channel_capacity'?",
        ),
        (
            'register_vllm_service(env, config={"model_id": "org/name"})\n'
            'env.from_collection(["a"]).map(VLLMServiceGenerator).print()\nenv.submit()',
            "~/script.py:10: ModelNotFoundError: Model 'org/name' is not in the registry at "
            "~/registry. Run `sage llm model download --model org/name`.\n"
            "while starting service 'vllm_service'",
        ),
        (
            'env.from_source(JSONLSource, "in.jsonl").print()\nenv.submit()',
            "~/script.py:9: MissingInputError: there is no file or folder in.jsonl; the working "
            "directory is ~\nin setup() of operator 'JSONLSource'",
        ),
        (
            'env.from_collection(["a"]).map(lambda a, b: a)',
            "~/script.py:8: TypeError: map() calls, with a record, <lambda>(a, b): missing a "
            "required argument: 'b'",
        ),
        (
            'register_vllm_service(env, config={"model_id": "a/b", "max_tokens": 9})',
            "~/script.py:8: InvalidOptionError: unknown configuration key 'max_tokens'; it belongs "
            "in 'sampling': {'max_tokens': 9}",
        ),
        (
            'register_vllm_service(env, config={"model_id": "./mine"})\n'
            'env.from_collection(["a"]).map(VLLMServiceGenerator).print()\nenv.submit()',
            "~/script.py:10: InvalidModelIdError: Invalid model id './mine': each part is 1 to 96 "
            "letters, digits, '-', '_' or '.', and neither begins nor ends with '-' or '.'. To use "
            "a folder, import it: `sage llm model import <owner>/<name> ./mine`.\n"
            "while starting service 'vllm_service'",
        ),
        (
            'open("in.jsonl", "w").write("[\\n{}\\n]")\n'
            'env.from_source(JSONLSource, "in.jsonl", name="read").print()\nenv.submit()',
            "~/script.py:10: InputFileError: in.jsonl, line 1: no JSON: Expecting value (column 3);"
            " the file is one JSON array; write a record a line: jq -c '.[]'\n"
            "in operator 'read' on record {'line': 1, 'path': 'in.jsonl', 'text': '['}\n"
            "(SAGE_DEBUG=1 shows what caused it)",
        ),
        (
            'env.from_collection([1]).sink(JSONLSink, "/proc/out.jsonl")\nenv.submit()',
            "~/script.py:9: OutputFileError: /proc/out.jsonl.partial: it cannot be written: No "
            "such file or directory; write to another folder\n(SAGE_DEBUG=1 shows what caused it)",
        ),
        (
            CALLS_ANOTHER_SERVICE,
            "~/script.py:9: ServiceNotFoundError: no service 'llm' is registered; "
            "register it before submit(), by register_vllm_service() or register_service()\n"
            "in operator 'ask' on record 'a'",
        ),
        (
            WITH_CAUSE,
            "~/script.py:11: SageError: the problem; do that\n(SAGE_DEBUG=1 shows what caused it)",
        ),
    ],
)
def test_a_mistake_is_a_sentence_with_the_line_of_the_script(
    tmp_path: Path, script: str, said: str
) -> None:
    assert run(tmp_path, script) == (1, f"{said}\n")


def test_a_pipeline_that_was_never_run_is_told(tmp_path: Path) -> None:
    script = "with env:\n    env.from_collection([1]).print()"
    said = "environment 'script' is closed and its pipeline was never run: call submit()\n"
    assert run(tmp_path, script) == (0, said)
    assert run(tmp_path, f"{script}\n    env.submit()") == (0, "")
    assert run(tmp_path, f"{script}\n    1 / 0")[1].count("never run") == 0


def test_a_checkpoint_of_another_pipeline_is_a_sentence(tmp_path: Path) -> None:
    assert run(tmp_path, OTHER_PIPELINE, "fails at the fourth record")[0] == 1
    status, said = run(tmp_path, OTHER_PIPELINE)
    assert status == 1
    assert said.startswith(f"~/script.py:13: {CheckpointMismatchError.__name__}: checkpoint ")
    assert said.count("\n") == 1


def test_an_error_of_the_scripts_own_code_keeps_its_lines_and_no_others(tmp_path: Path) -> None:
    assert run(tmp_path, OWN_CODE) == (
        1,
        """\
Traceback (most recent call last):
  File "~/script.py", line 11, in <module>
    env.submit()
  File "~/script.py", line 9, in parse
    return json.loads(line)["text"]
           ~~~~~~~~~~~~~~~~^^^^^^^^
KeyError: 'text'
in operator 'parse' on record '{"txt": 2}'
""",
    )
    _, said = run(tmp_path, SERVICE_OF_ITS_OWN)
    assert said.count("  File ") == said.count('  File "~/script.py"') == 3


def test_what_follows_from_an_error_of_its_own_is_shown_with_it(tmp_path: Path) -> None:
    _, said = run(tmp_path, CHAINED)
    assert "KeyError: 'text'\n\nThe above exception was the direct cause" in said
    assert "RuntimeError: no text\nin operator 'parse'" in said
    assert "/sage/" not in said


def test_a_function_of_a_library_is_shown_with_the_line_that_calls_it(tmp_path: Path) -> None:
    _, said = run(tmp_path, 'env.from_collection(["{"]).map(json.loads).print()\nenv.submit()')
    assert "json.decoder.JSONDecodeError" in said
    assert said.count("/sage/") == 1
    assert "in operator 'loads' on record '{'" in said


def test_a_fault_of_sage_itself_is_shown_whole(tmp_path: Path) -> None:
    broken = "import sage.kernel.api.environment as module\ndel module.LocalExecutor\n"
    _, said = run(tmp_path, f"{broken}env.from_collection(['a']).print()\nenv.submit()")
    assert said.startswith("Traceback (most recent call last):")
    assert "in _start" in said
    assert "NameError: name 'LocalExecutor' is not defined" in said


def test_debugging_shows_all(tmp_path: Path) -> None:
    _, said = run(tmp_path, WITH_CAUSE, SAGE_DEBUG="1")
    assert said.startswith("Traceback (most recent call last):")
    assert "KeyError: 'a'\n\nThe above exception was the direct cause" in said
    assert said.endswith("sage.common.core.errors.SageError: the problem; do that\n")
    assert run(tmp_path, OWN_CODE, SAGE_DEBUG="1")[1].count("/sage/") > 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hook_of_somebody_else_is_the_one_that_is_asked(tmp_path: Path, when: str) -> None:
    hook = "import sys\nsys.excepthook = lambda kind, error, trace: print(kind, file=sys.stderr)\n"
    raising = f"{HEAD}raise SageError('x')"
    (tmp_path / "program.py").write_text(
        hook + raising if when == "before" else raising.replace("raise ", f"{hook}raise ")
    )
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"], capture_output=True, text=True, check=False
    )
    assert done.stderr == "<class 'sage.common.core.errors.SageError'>\n"


def test_errors_that_have_nothing_to_do_with_it_are_shown_by_python(tmp_path: Path) -> None:
    _, said = run(tmp_path, "def f():\n    return 1 / 0\nf()")
    assert said.startswith('Traceback (most recent call last):\n  File "~/script.py", line 10')
    assert said.endswith("ZeroDivisionError: division by zero\n")


def test_an_error_without_standard_error_says_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, "sys.stderr.flush()\nsys.stderr = None\nraise SageError('x')") == (1, "")


def test_a_notebook_asks_the_error_for_its_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = "from sage.common.core.errors import SageError\n\nraise SageError('x', hint='y')"
    shell = (
        "import sys; from IPython.core.interactiveshell import InteractiveShell;"
        "InteractiveShell.instance().run_cell(sys.argv[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", shell, cell],
        env={**os.environ, "IPYTHONDIR": str(tmp_path)},  # whose history is nobody else's
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.fullmatch(r"<ipython-input-\S+>:3: SageError: x; y\n", done.stdout)
    with pytest.raises(SageError) as caught:
        raise SageError("the problem", hint="do that") from KeyError("a")
    assert caught.value._render_traceback_() == [  # what IPython calls
        f"{__file__}:{caught.tb.tb_lineno}: SageError: the problem; do that",
        "(SAGE_DEBUG=1 shows what caused it)",
    ]
    monkeypatch.setenv("SAGE_DEBUG", "1")
    assert "KeyError: 'a'" in caught.value._render_traceback_()
    assert isinstance(caught.value.__cause__, KeyError)
