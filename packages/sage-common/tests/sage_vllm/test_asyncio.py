"""VLLMService called from coroutines: results, errors, cancellation, streams, opening."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop

from sage.common.components.sage_vllm.engine_contract import EngineSpec
from sage.common.components.sage_vllm.errors import EngineClosedError, PromptTooLongError
from sage.common.components.sage_vllm.service import VLLMService
from sage.common.components.sage_vllm.testing.echo_engine import EchoEngine
from sage.common.service import ServiceClosedError

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
LONG = {"max_tokens": 400, "ignore_eos": True}
USER: ContextVar[str] = ContextVar("USER", default="nobody")
Serve = Callable[..., VLLMService]
LIMIT = 60  # seconds, for what comes at once where nothing else is at work


def echo(model_root: Path, engine: Any = EchoEngine, **arguments: Any) -> VLLMService:
    models = {"model_id": "test/echo", "embedding_model_id": "test/echo"}
    factory = partial(engine, **arguments)
    return VLLMService({**models, "model_root": model_root}, engine_factory=factory)


@pytest.fixture
def serve(model_root: Path) -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda **arguments: stack.enter_context(echo(model_root, **arguments))


async def until_idle(service: VLLMService) -> None:
    """Wait until the engine has nothing to do: what was cancelled is aborted soon."""
    async with asyncio.timeout(LIMIT):
        while service.stats()["in_flight"]:
            await asyncio.sleep(0.005)


async def until_busy(service: VLLMService, requests: int = 1) -> None:
    async with asyncio.timeout(LIMIT):
        while service.stats()["in_flight"] < requests:
            await asyncio.sleep(0.005)


# -- results and errors -----------------------------------------------------------------------


@LOOPS
def test_coroutines_get_what_blocking_callers_get(
    serve: Serve, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    service = serve()

    async def main() -> None:
        (one,), (cut, other) = await asyncio.gather(
            service.agenerate("one two three"),
            service.agenerate(["a b", {"prompt": "c", "options": {"n": 2}}], max_tokens=1),
        )
        assert (one["text"], cut["text"], len(other["choices"])) == ("one two three", "a", 2)
        vectors = (await service.aembed(["one", "two"]))["vectors"]
        assert vectors == service.embed(["one", "two"])["vectors"]
        embed = {"task": "embed", "inputs": ["one"], "options": {"dimensions": 4}}
        assert (await service.aprocess(embed))["dim"] == 4
        assert (await service.aprocess({"task": "health"}))["state"] == "ready"
        stream = service.astream("one two three")
        assert [piece async for piece in stream] == ["one", " two", " three"]
        assert (await stream.result())["text"] == "one two three"
        assert [piece async for piece in stream] == []

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


WRONG: list[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ("generate", ("",), {}, ValueError, "the prompt is empty"),
    ("generate", (5,), {}, ValueError, "conversations, not 5"),
    ("generate", ("a",), {"max_token": 5}, ValueError, "max_token"),
    ("generate", ("a",), {"on_error": "skip"}, ValueError, "on_error"),
    ("generate", ("a",), {"lora": "no/adapter"}, LookupError, "no/adapter"),
    ("generate", ("word " * 600,), {}, PromptTooLongError, "600"),
    ("generate", (), {}, TypeError, "prompts"),
    ("embed", ([],), {"dimensions": -1}, ValueError, "dimensions"),
    ("embed", ([""],), {}, ValueError, "text 0"),
    ("embed", ("\ud800",), {}, ValueError, "text 0"),
    ("embed", ("a",), {"dimension": 8}, TypeError, "dimension"),
    ("process", ({"task": "generat"},), {}, ValueError, "did you mean 'generate'"),
    ("process", ({"task": "generate"},), {}, ValueError, "needs 'inputs'"),
    ("process", ("generate",), {}, ValueError, "the payload must be"),
    ("process", ({"task": "generate", "inputs": ""},), {}, ValueError, "is empty"),
    ("process", ({"task": "stats", "options": {"x": 1}},), {}, ValueError, "'stats' takes"),
]


@pytest.mark.parametrize(("name", "args", "kwargs", "error", "says"), WRONG)
def test_a_wrong_input_fails_the_future_and_the_await_but_never_the_call(
    serve: Serve,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    error: type[Exception],
    says: str,
) -> None:
    service = serve()
    future = getattr(service, f"{name}_async")(*args, **kwargs)
    with pytest.raises(error, match=says):
        future.result(LIMIT)

    async def main() -> None:
        coroutine = getattr(service, f"a{name}")(*args, **kwargs)
        await asyncio.sleep(0)
        with pytest.raises(error, match=says):
            await coroutine

    if (args, kwargs) != ((), {}):  # a coroutine function checks its own signature
        asyncio.run(main())


def test_calls_before_and_after_fail_at_the_await(model_root: Path) -> None:
    service = echo(model_root)

    async def fail(expected: type[Exception]) -> None:
        calls = [service.agenerate("a"), service.aembed("a"), anext(service.astream("a"))]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert type(outcome) is expected

    asyncio.run(fail(ServiceClosedError))
    with service:
        pass
    asyncio.run(fail(EngineClosedError))
    for future in (service.generate_async("a"), service.embed_async("a")):
        assert isinstance(future.exception(LIMIT), EngineClosedError)
    assert isinstance(service.process_async({"task": "stats"}).exception(LIMIT), ServiceClosedError)


def test_a_call_in_flight_ends_with_the_service(serve: Serve) -> None:
    service = serve(latency=600)

    async def main() -> None:
        calls = [service.agenerate("a"), service.aembed("a"), anext(service.astream("a"))]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await until_busy(service, 2)
        await asyncio.to_thread(service.close)
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert type(outcome) is EngineClosedError

    asyncio.run(main())


def test_the_engine_sees_the_callers_context_variables(serve: Serve) -> None:
    service = serve(answers=lambda _: USER.get())

    async def ask(user: str) -> str:
        USER.set(user)
        return (await service.agenerate("who is it?"))[0]["text"]

    async def main() -> list[str]:
        return await asyncio.gather(*map(ask, ("ada", "bob")))

    assert asyncio.run(main()) == ["ada", "bob"]


# -- cancellation -----------------------------------------------------------------------------


async def _timeout(call: Coroutine[Any, Any, Any]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await call


async def _cancel(call: Coroutine[Any, Any, Any]) -> None:
    task = asyncio.create_task(call)
    await asyncio.sleep(0.05)
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await task


async def _fail_in_a_group(call: Coroutine[Any, Any, Any]) -> None:
    async def fail() -> None:
        await asyncio.sleep(0.05)
        raise KeyError("another task's")

    async def both() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(call)
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        await both()


CALLS: dict[str, Callable[[VLLMService], Coroutine[Any, Any, Any]]] = {
    "agenerate": lambda service: service.agenerate(["a", "b"]),
    "aembed": lambda service: service.aembed(["a", "b"]),
    "aprocess": lambda service: service.aprocess({"task": "generate", "inputs": ["a"]}),
    "anext": lambda service: _first_piece(service),
    "result": lambda service: service.astream("a").result(),
}


async def _first_piece(service: VLLMService) -> str:
    return await anext(service.astream("a"))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("end", [_timeout, _cancel, _fail_in_a_group])
def test_a_cancelled_await_leaves_nothing_in_the_engine(
    serve: Serve, call: str, end: Callable[[Any], Coroutine[Any, Any, None]]
) -> None:
    service = serve(latency=600)

    async def main() -> None:
        await end(CALLS[call](service))
        await until_idle(service)

    asyncio.run(main())
    assert service.stats()["requests_done"] == 0


def test_one_that_fails_leaves_the_others_of_a_gather(serve: Serve) -> None:
    service = serve(latency=0.1, answers={"bad": ValueError("no")})

    async def main() -> None:
        fine = asyncio.create_task(service.agenerate("fine"))
        with pytest.raises(ValueError, match="no"):
            await asyncio.gather(fine, service.agenerate("bad"))
        assert (await fine)[0]["text"] == "fine"

    asyncio.run(main())


async def _leave_calls(service: VLLMService) -> list[asyncio.Task[Any]]:
    calls = [*(service.agenerate("a") for _ in range(10)), _first_piece(service)]
    tasks = [asyncio.create_task(call) for call in calls]
    await until_busy(service, len(tasks))
    return tasks


def _leave_calls_to_a_closed_loop(service: VLLMService) -> list[asyncio.Task[Any]]:
    loop = asyncio.new_event_loop()
    tasks = loop.run_until_complete(_leave_calls(service))
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is meant
    return tasks


def test_a_loop_that_ends_takes_its_calls_with_it(serve: Serve) -> None:
    service = serve(latency=600)
    tasks = asyncio.run(_leave_calls(service))
    assert all(task.cancelled() for task in tasks)
    assert service.stats()["in_flight"] == 0
    tasks = _leave_calls_to_a_closed_loop(service)
    assert service.stats()["in_flight"] == len(tasks) == 11
    tasks.clear()
    gc.collect()
    assert service.stats()["in_flight"] == 0


def test_an_answer_that_finds_its_loop_closed_says_nothing(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    closed = threading.Event()
    service = serve(latency=0.01, answers=lambda _: None if closed.wait(LIMIT) else "too late")
    first = service.generate_async("first")
    tasks = _leave_calls_to_a_closed_loop(service)
    closed.set()
    # Answers come in the order of the calls.
    assert service.generate("still there")[0]["text"] == "still there"
    assert first.result()[0]["text"] == "first"
    assert (service.stats()["in_flight"], service.stats()["requests_done"]) == (0, len(tasks) + 2)
    assert caplog.records == []


def test_a_ctrl_c_under_asyncio_run_aborts_and_closes(model_root: Path) -> None:
    program = f"""
import asyncio, signal, threading, time
from sage.common.components.sage_vllm import VLLMService
from sage.common.components.sage_vllm.testing import EchoEngine
from functools import partial

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the shell has set
config = {{"model_id": "test/echo", "model_root": {str(model_root)!r}}}

async def main():
    async with VLLMService(config, engine_factory=partial(EchoEngine, latency=600)) as service:
        print("open", flush=True)
        try:
            await service.agenerate("a")
        finally:
            print(service.stats()["in_flight"], service.stats()["state"])

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print([thread.name for thread in threading.enumerate() if "sage-echo" in thread.name])
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "open\n"
        time.sleep(0.2)
        began = time.monotonic()
        run.send_signal(signal.SIGINT)
        assert run.stdout.read() == "0 ready\n[]\n"
        assert run.wait(LIMIT) == 0
    assert time.monotonic() - began < LIMIT  # and not when the answer comes


# -- streams ----------------------------------------------------------------------------------


def test_a_stream_that_nobody_reads_starts_nothing(serve: Serve) -> None:
    service = serve()

    async def main() -> None:
        service.astream("a")
        stream = service.astream("a")
        await stream.aclose()
        await stream.aclose()
        assert [piece async for piece in stream] == []

    asyncio.run(main())
    assert service.stats()["requests_done"] == 0


def test_a_slow_reader_gets_the_whole_text_and_holds_up_nobody(serve: Serve) -> None:
    service = serve()
    words = [f"word{n}" for n in range(500)]

    async def read() -> str:
        text = ""
        async with service.astream(" ".join(words)) as stream:
            async for piece in stream:
                text += piece
                await asyncio.sleep(0.001)
        return text

    async def main() -> None:
        reading = asyncio.create_task(read())
        (other,) = await service.agenerate("quick")
        assert other["text"] == "quick"
        assert not reading.done()
        assert (await reading).split() == words

    asyncio.run(main())


def test_an_error_ends_a_stream_where_it_is_read(serve: Serve) -> None:
    service = serve(answers={"bad": OSError("the disk")})

    async def main() -> None:
        stream = service.astream("bad")
        for _ in range(2):
            with pytest.raises(OSError, match="the disk"):
                await anext(stream)
        with pytest.raises(ValueError, match="a stream has one prompt, not 2"):
            await anext(service.astream(["a", "b"]))

    asyncio.run(main())


# -- loops, threads, opening ------------------------------------------------------------------


def test_event_loops_of_many_threads_share_a_service(serve: Serve) -> None:
    service = serve(latency=0.01)

    async def ask(thread: int) -> bool:
        names = [f"t{thread} n{n}" for n in range(100)]
        answers = await asyncio.gather(*map(service.agenerate, names))
        return [answer["text"] for (answer,) in answers] == names

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(lambda thread: asyncio.run(ask(thread)), range(4)))


class SlowEngine(EchoEngine):
    """Waits, as it opens and as it closes, and says on which thread it did."""

    def __init__(self, spec: EngineSpec, *, wait: Callable[[], object], closed: list[str]) -> None:
        self.wait, self.closed = wait, closed
        wait()
        super().__init__(spec)

    def close(self, *, drain: bool = False) -> None:
        self.wait()
        self.closed.append(threading.current_thread().name)
        super().close(drain=drain)


def test_opening_and_closing_do_not_hold_up_the_loop(model_root: Path) -> None:
    closed: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def wait_for_the_loop() -> None:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result(LIMIT)

        async with echo(model_root, SlowEngine, wait=wait_for_the_loop, closed=closed) as service:
            assert (await service.agenerate("a"))[0]["text"] == "a"

    asyncio.run(main())
    assert set(closed) == {"sage-close"}


def test_a_service_that_cannot_open_says_so_at_the_async_with(model_root: Path) -> None:
    def broken(spec: EngineSpec) -> Any:
        raise OSError(f"no device for {spec.model_id}")

    async def main() -> None:
        with pytest.raises(OSError, match="no device for test/echo"):
            async with echo(model_root, broken):
                raise AssertionError("it is not open")

    asyncio.run(main())


def test_a_service_whose_opening_is_cancelled_is_closed_once_it_is_open(model_root: Path) -> None:
    closed: list[str] = []
    release = threading.Event()
    service = echo(model_root, SlowEngine, wait=lambda: release.wait(LIMIT), closed=closed)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05), service:
                raise AssertionError("it is not open")

    asyncio.run(main())
    assert not closed
    release.set()
    deadline = time.monotonic() + LIMIT
    while not closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(closed) == {"sage-close"}
    assert not service.accepts_calls


# -- a real engine ----------------------------------------------------------------------------


async def _read(stream: AsyncIterator[str], pieces: int) -> None:
    async for _ in stream:
        pieces -= 1
        if not pieces:
            break


def test_real_results_are_those_of_blocking_calls(service: VLLMService) -> None:
    prompts = [f"prompt number {n}" for n in range(20)]
    said = [result["text"] for result in service.generate(prompts)]

    async def main() -> None:
        results = await asyncio.gather(*map(service.agenerate, prompts))
        assert [result["text"] for (result,) in results] == said
        streams = [service.astream(prompt) for prompt in prompts]
        texts = [[piece async for piece in stream] for stream in streams]
        assert ["".join(pieces) for pieces in texts] == said
        assert (await streams[0].result())["finish_reason"] == "length"

    asyncio.run(main())


def test_a_real_generation_is_aborted_between_steps(service: VLLMService) -> None:
    async def main() -> None:
        tasks = [asyncio.create_task(service.agenerate(f"a{n}", **LONG)) for n in range(8)]
        while service.stats()["running"] < 8:
            await asyncio.sleep(0.001)
        before = service.stats()["requests_done"]
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
        await until_idle(service)
        assert service.stats()["requests_done"] == before

    asyncio.run(main())


def test_a_real_stream_ends_with_its_reader(service: VLLMService) -> None:
    async def main() -> None:
        before = service.stats()["requests_done"]
        await _read(service.astream("a", **LONG), 3)  # a break, and nobody has it any more
        await until_idle(service)

        async with service.astream("b", **LONG) as stream:
            await _read(stream, 3)
        await until_idle(service)
        with pytest.raises(asyncio.CancelledError):
            await _cancel_reading(service)
        await until_idle(service)
        assert service.stats()["requests_done"] == before

    asyncio.run(main())


async def _cancel_reading(service: VLLMService) -> None:
    stream = service.astream("c", **LONG)
    first = asyncio.Event()

    async def read() -> None:
        async for _ in stream:
            first.set()

    task = asyncio.create_task(read())
    await first.wait()
    task.cancel()
    await task
