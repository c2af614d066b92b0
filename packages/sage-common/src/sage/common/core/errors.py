"""The roots of SAGE's errors.

SageError
├── ServiceError                      sage.common.service.errors
│   ├── ServiceNotFoundError          (LookupError)
│   ├── ServiceMethodNotFoundError    (AttributeError)
│   ├── ServiceTimeoutError           (TimeoutError)
│   └── ServiceClosedError            (RuntimeError)
├── RecordTimeoutError                (TimeoutError) a record lasted longer than timeout=
├── PackageNotInstalledError          (ImportError) what an optional feature needs
├── EndpointError                     sage.common.components.endpoint_error
├── UnfinishedAnswerError             sage.libs.operators.errors
├── NotALocalPathError                sage.common.core.local_path
├── InputFileError, OutputFileError   sage.libs.io.errors
├── UnawaitedCoroutineError           (TypeError) sage.kernel.runtime.flow.unawaited
├── PipelineCancelledError            sage.kernel.runtime.cancelled
├── AllRecordsFailedError             sage.kernel.runtime.all_records_failed
├── CheckpointError                   sage.kernel.runtime.checkpoint.errors
├── ClusterError                      sage.kernel.runtime.cluster.errors
├── EngineError                       sage.common.components.sage_vllm.errors
└── ModelRegistryError                sage.common.model_registry.errors
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from sage.common.core.uncaught import show_uncaught, uncaught_lines

if TYPE_CHECKING:
    from json import JSONDecodeError

_E = TypeVar("_E", bound="SageError")


@dataclass(frozen=True)
class Setting:
    """A configuration option that mends a problem, and the value to set.

    ``str()`` gives its form in Python, such as ``engine={'max_model_len': 2048} or less``; the
    command line has flags of its own for it.

    Args:
        option: its path in the configuration, ``"engine.max_model_len"``.
        value: the value to set; None where the reader has to choose one.
        qualifier: what to say after it: ``"or less"``, ``"or more"``.
    """

    option: str
    value: object = None
    qualifier: str = ""

    def __str__(self) -> str:
        group, _, name = self.option.rpartition(".")
        value = "..." if self.value is None else repr(self.value)
        if group == "sampling":  # calls and operators accept them as keywords
            shown = name if self.value is None else f"{name}={value}"
        else:
            shown = f"{group}={{{name!r}: {value}}}" if group else f"{{{name!r}: {value}}}"
        return f"{shown} {self.qualifier}".rstrip()


class WayOut(TypedDict, total=False):
    """What a SageError accepts beside its problem."""

    hint: str | None
    option: str | None
    value: object
    settings: tuple[Setting, ...]


class SageError(Exception):
    """Base of every error that SAGE raises itself: data first, a sentence last.

    Programs read the attributes: ``problem`` (what failed, with the value concerned), ``hint``
    (what to do about it), ``settings`` (the options that mend it) with the first one's ``option``
    and ``value``, and the facts of each subclass. All of them survive pickling. ``str(error)`` is
    for people: the problem, then the hint.

    Args:
        problem: what failed.
        hint: what to do about it. Where there are settings, the hint ends such that they complete
            the sentence: ``"end what else uses the device, or set"``.
        option: the one option that mends it, as its path, ``"engine.max_model_len"``.
        value: what to set that option to.
        settings: in place of option and value, where there are several such options.
    """

    retryable = False
    """Whether trying the same thing again can succeed; operators retry only such errors."""
    skippable = True
    """Whether it may be one record's. False where no other record would do better, as without a
    service: then the run ends, whatever ``on_error`` says."""

    problem: str = ""
    settings: tuple[Setting, ...] = ()
    _advice: str | None = None

    def __init__(
        self,
        problem: str = "",
        *,
        hint: str | None = None,
        option: str | None = None,
        value: object = None,
        settings: tuple[Setting, ...] = (),
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.settings = settings if option is None else (Setting(option, value), *settings)
        self._advice = hint

    @property
    def hint(self) -> str | None:
        """What to do about it, options in the form that Python has for them."""
        return self.hint_with(str)

    @property
    def option(self) -> str | None:
        """The path of the first option that mends it."""
        return self.settings[0].option if self.settings else None

    @property
    def value(self) -> object:
        """What to set that option to."""
        return self.settings[0].value if self.settings else None

    def hint_with(self, show: Callable[[Setting], str | None]) -> str | None:
        """Return the hint, with each setting as ``show`` renders it.

        A setting for which ``show`` returns None is left out, if others remain.
        """
        forms = [form for each in self.settings if (form := show(each)) is not None]
        ways = " or ".join(forms or map(str, self.settings))
        return f"{self._advice or 'set'} {ways}" if ways else self._advice

    def __str__(self) -> str:
        if self.hint is None:
            return self.problem
        return f"{self.problem}{' ' if self.problem.endswith(('.', '?')) else '; '}{self.hint}"

    def _render_traceback_(self) -> list[str]:
        """Return the lines that IPython, and so a notebook, shows of it; a protocol of IPython."""
        return uncaught_lines(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls the class with `args`, which need not be what its __init__ accepts.
        return _restore, (type(self), self.args, self.__dict__)


show_uncaught(SageError)


def _restore(cls: type[_E], args: tuple[Any, ...], facts: dict[str, Any]) -> _E:
    base: Any = cls
    while "__new__" not in vars(base):  # of several builtin bases Python wants this one's
        base = base.__base__
    error: _E = base.__new__(cls)
    error.args = args
    error.__dict__.update(facts)
    return error


class RecordTimeoutError(SageError, TimeoutError):
    """An asynchronous operator had no result for a record within its ``timeout``."""

    def __init__(self, operator: str, timeout: float) -> None:
        super().__init__(
            f"operator {operator!r} had no result within {timeout:g} s",
            hint="raise its timeout= or pass timeout=None to wait without limit",
        )
        self.operator = operator
        self.timeout = timeout


class PackageNotInstalledError(SageError, ImportError):
    """An optional feature was asked for whose package is not installed; ``extra`` installs it."""

    skippable = False

    def __init__(self, package: str, extra: str, reason: str = "") -> None:
        why = f" ({reason})" if reason else ""
        super().__init__(f"{package} is not installed{why}", hint=f"run: pip install '{extra}'")
        self.package = package
        self.extra = extra
        self.reason = reason


def json_problem(error: JSONDecodeError) -> str:
    """Return what is wrong, without the place: Python's own words may break off before that."""
    return error.msg.removesuffix(" at").removesuffix(" starting")


def near_name(value: str, choices: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """Return the name that is most like an unknown one, if one is like it at all.

    ``likeness`` is how much of the two has to be the same, from 0 to 1.
    """
    from difflib import get_close_matches  # only ever needed on the way to an error

    return next(iter(get_close_matches(value, list(choices), n=1, cutoff=likeness)), None)


def nearest(value: str, choices: list[str]) -> str:
    """Return the end of a message about an unknown name: the nearest valid one, else all."""
    if (near := near_name(value, choices)) is not None:
        return f"did you mean {near!r}?"
    return f"valid: {', '.join(sorted(choices)) or '(none)'}"
