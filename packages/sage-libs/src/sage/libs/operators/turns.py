"""Turns: leads a record's conversation to its answer, by tools that run and by asking again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from sage.common.components.sage_vllm.errors import InvalidAnswerError
from sage.common.components.sage_vllm.requests.inputs import parse_prompts
from sage.kernel.runtime.service.call_timeouts import CallTimeouts
from sage.kernel.runtime.service.daemon_threads import DaemonThreads
from sage.libs.operators.errors import ToolCallError, ToolTimeoutError, UnfinishedAnswerError
from sage.libs.operators.tool_box import MisusedToolError, ToolBox, result_of

Result = dict[str, Any]
ToolErrors = Literal["tell", "raise"]

Ask = Callable[[Any, Mapping[str, Any]], Future[list[Result]]]
"""Starts a generation: takes a prompt and options."""

_MOST_THREADS = 256  # on which tools and validators run


@dataclass(frozen=True, kw_only=True)
class TurnRules:
    """What becomes of an answer that is no answer yet.

    Args:
        tools: run what the model asks for; None leaves its calls in the result.
        max_turns: generations that a record may take until its answer, without asking again.
        tool_timeout: seconds that a call of a tool may last.
        tool_errors: ``"tell"`` makes a tool's exception the message that the model gets,
            ``"raise"`` the record's error.
        validate: raises what is wrong with an answer, the text or the object of its JSON.
        reasks: how often the model is asked again for an answer that is not valid.
    """

    tools: ToolBox | None
    max_turns: int
    tool_timeout: float
    tool_errors: ToolErrors
    validate: Callable[[Any], object] | None
    reasks: int

    def __post_init__(self) -> None:
        for name, least in (("max_turns", 1), ("reasks", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number, {least} or more, not {value!r}")
        seconds = self.tool_timeout
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
            raise ValueError(f"tool_timeout must be seconds above 0, not {seconds!r}")
        if self.tool_errors not in ("tell", "raise"):
            raise ValueError(f'tool_errors must be "tell" or "raise", not {self.tool_errors!r}')
        if self.validate is not None and not callable(self.validate):
            raise ValueError(f"validate must be a function of an answer, not {self.validate!r}")


class Turns:
    """Leads the conversations of one operator; no thread waits for a record.

    A record's next turn starts on the thread on which its last tool ended, and joins the batch that
    the engine works on.
    """

    def __init__(self, name: str, rules: TurnRules, ask: Ask) -> None:
        self.rules = rules
        self.ask = ask
        self.threads = DaemonThreads(name, _MOST_THREADS, nullcontext())
        self.timeouts = CallTimeouts()

    def start(self, prompt: Any, options: Mapping[str, Any]) -> Future[list[Result]]:
        """Return a Future of the last turn's result, in a list; cancelling it ends the turns.

        Its ``tokens_used`` are those of all turns. With tools it also has ``messages``, the
        conversation from its beginning to the answer.
        """
        if isinstance(prompt, Mapping):  # a message, or a prompt with options of its own
            (item,) = parse_prompts(prompt)
            prompt, options = item.prompt, {**options, **item.options}
        record = _Record(self, prompt, options)
        record.ask()
        return record.future

    def close(self) -> None:
        """End the threads, each after the tool that it runs."""
        self.threads.close()
        self.timeouts.close()


class _Record:
    """One record's turns. Each step begins where the one before ended, on whichever thread."""

    def __init__(self, turns: Turns, prompt: Any, options: Mapping[str, Any]) -> None:
        self.future: Future[list[Result]] = Future()
        self._turns = turns
        self._rules = turns.rules
        self._options = dict(options)
        self._prompt = prompt
        self._asked = self._reasked = 0
        self._misused = False
        self._tokens: dict[str, int] = {}
        self._running: list[Future[Any]] = []
        self._lock = threading.Lock()
        self.future.add_done_callback(self._cancel_with)

    def ask(self) -> None:
        """Start the next generation."""
        self._asked += 1
        prompt = self._prompt
        if not isinstance(prompt, str):  # a list of texts would be several prompts
            prompt = {"messages": list(prompt)}
        try:
            call = self._turns.ask(prompt, self._options)
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            self._fail(error)
            return
        self._now_running([call])
        call.add_done_callback(self._answered)

    def _answered(self, call: Future[list[Result]]) -> None:
        """Go on with an answer; on the engine's own thread, so that nothing here may take long."""
        if call.cancelled():
            self.future.cancel()
            return
        error = call.exception()
        try:
            if isinstance(error, InvalidAnswerError):  # its class refuses it
                self._count(error.tokens_used or {})
                self._turns.threads.submit(self._ask_again, error)
            elif error is not None:
                self._fail(error)
            else:
                self._go_on(call.result()[0])
        except Exception as failed:  # noqa: BLE001 - it belongs to whoever waits
            self._fail(failed)

    def _go_on(self, result: Result) -> None:
        self._count(result["tokens_used"])
        calls = result.get("tool_calls")
        tools = self._rules.tools
        if tools is not None and calls:
            self._run(tools, result, calls)
        elif tools is not None and self._must_call:
            raise UnfinishedAnswerError(
                result["text"], result["finish_reason"], result.get("reasoning"), what="calls"
            )
        elif self._rules.validate is not None and not calls:
            self._turns.threads.submit(self._validate, result)
        else:
            self._finish(result)

    @property
    def _must_call(self) -> bool:
        return self._options.get("tool_choice") not in (None, "auto", "none")

    def _count(self, tokens: Mapping[str, int]) -> None:
        for kind, count in tokens.items():
            self._tokens[kind] = self._tokens.get(kind, 0) + count

    # -- tools ------------------------------------------------------------------------------------

    def _run(self, tools: ToolBox, result: Result, calls: Sequence[Mapping[str, Any]]) -> None:
        """Run the calls side by side; the last one that ends starts the next turn."""
        rules = self._rules
        if self._asked - self._reasked >= rules.max_turns:
            raise ToolCallError(
                calls[0]["name"],
                calls[0]["arguments"],
                f"after {rules.max_turns} turns the model still asks for tools",
                hint="raise max_turns",
            )
        self._say(result)
        outcomes: list[Any] = [None] * len(calls)
        left = len(calls)

        def done(index: int, call: Future[str]) -> None:
            nonlocal left
            if not call.cancelled():
                outcomes[index] = call.exception() or call.result()
            with self._lock:
                left -= 1
                last = left == 0
            if last and not self.future.done():
                try:
                    self._ran(calls, outcomes)
                except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
                    self._fail(error)

        started = [self._start(tools, call) for call in calls]
        self._now_running(started)
        for index, call in enumerate(started):
            call.add_done_callback(partial(done, index))

    def _start(self, tools: ToolBox, call: Mapping[str, Any]) -> Future[str]:
        name, seconds = call["name"], self._rules.tool_timeout
        running = self._turns.threads.submit(tools.run, name, call["arguments"])
        late = ToolTimeoutError(name, seconds)
        limited = self._turns.timeouts.limit(running, seconds, late)
        limited.add_done_callback(lambda done: self._give_thread_up(done, late))
        return limited

    def _give_thread_up(self, call: Future[str], late: Exception) -> None:
        """Have another thread in place of one that a tool holds beyond its time."""
        if not call.cancelled() and call.exception() is late:
            self._turns.threads.allow_one_more()

    def _ran(self, calls: Sequence[Mapping[str, Any]], outcomes: Sequence[Any]) -> None:
        """Tell the model what came of its calls, and give it the next turn."""
        misused = [each for each in outcomes if isinstance(each, MisusedToolError)]
        for call, outcome in zip(calls, outcomes, strict=True):
            again = isinstance(outcome, MisusedToolError) and self._misused
            if again:
                self._fail(ToolCallError(call["name"], call["arguments"], str(outcome)))
                return
            failed = isinstance(outcome, BaseException) and outcome not in misused
            ends = failed and not isinstance(outcome, Exception)  # the program, as SystemExit does
            if ends or (failed and self._rules.tool_errors == "raise"):
                self._fail(outcome)
                return
            self._prompt.append(_tool_message(call, outcome))
        self._misused = self._misused or bool(misused)
        if self._must_call:
            self._options["tool_choice"] = "auto"  # else it could never answer
        self.ask()

    # -- answers that are not valid ---------------------------------------------------------------

    def _validate(self, result: Result) -> None:
        answer = result.get("parsed") if "parsed" in result else result["text"]
        try:
            if self._rules.validate is not None and answer is not None:
                _check(self._rules.validate, answer)
        except Exception as error:  # noqa: BLE001 - whatever it is, it says what is wrong
            self._ask_again(InvalidAnswerError(result["text"], str(error) or repr(error)))
        else:
            self._finish(result)

    def _ask_again(self, error: InvalidAnswerError) -> None:
        """Tell the model what is wrong with its answer, if it has not been told too often."""
        if self._reasked >= self._rules.reasks:
            self._fail(error)
            return
        self._reasked += 1
        problem = f"This answer is not valid: {error.reason}. Answer again, without that mistake."
        if isinstance(self._prompt, str):
            self._prompt = f"{self._prompt}{error.text}\n\n{problem}\n\n"
        else:
            self._say({"text": error.text})
            self._prompt.append({"role": "user", "content": problem})
        self.ask()

    # -- inside -----------------------------------------------------------------------------------

    def _say(self, result: Mapping[str, Any]) -> None:
        """Add what the model said to the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": result["text"]}
        for key in ("reasoning", "tool_calls"):
            if result.get(key):
                message[key] = result[key]
        self._prompt = [*self._prompt, message]  # the first one is the caller's own

    def _finish(self, result: Result) -> None:
        whole = {**result, "tokens_used": self._tokens or result["tokens_used"]}
        if self._rules.tools is not None:
            self._say(result)
            whole["messages"] = self._prompt
        if self.future.set_running_or_notify_cancel():
            self.future.set_result([whole])

    def _fail(self, error: BaseException) -> None:
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def _now_running(self, calls: list[Future[Any]]) -> None:
        self._running = calls
        if self.future.cancelled():
            self._cancel_with(self.future)

    def _cancel_with(self, future: Future[Any]) -> None:
        if future.cancelled():
            for call in self._running:
                call.cancel()


def _check(validate: Callable[[Any], object], answer: Any) -> None:
    """Have an answer validated; raises what the validator does, and ValueError where it says no."""
    if result_of(partial(validate, answer)) is False:
        raise ValueError(f"{getattr(validate, '__name__', validate)} is False of it")


def _tool_message(call: Mapping[str, Any], outcome: Any) -> dict[str, Any]:
    content = outcome
    if isinstance(outcome, MisusedToolError | ToolTimeoutError):
        content = f"Error: {outcome}"
    elif isinstance(outcome, BaseException):
        content = f"Error: {type(outcome).__name__}: {outcome}"
    return {"role": "tool", "tool_call_id": call["id"], "name": call["name"], "content": content}
