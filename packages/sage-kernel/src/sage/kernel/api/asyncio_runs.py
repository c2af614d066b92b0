"""AsyncioRuns: what an environment offers to coroutines that run its pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from sage.common.core.background import in_background


class AsyncioRuns:
    """The part of an environment for asyncio: it runs and closes on threads, not on the loop."""

    submit: Callable[..., None]
    close: Callable[[], None]
    _say_what_is_kept: Callable[[BaseException], None]

    async def asubmit(self, autostop: bool = True, **options: Any) -> None:  # noqa: FBT001 - as submit
        """Run the pipeline as ``submit`` does, without blocking the event loop.

        Cancelling the await closes the environment, and waits for that: nothing of the run is at
        work any more when it returns. A service that is being opened is waited for too::

            async with LocalEnvironment() as env:
                ...
                async with asyncio.timeout(60):
                    await env.asubmit(checkpoint="run")

        Args:
            autostop: False returns once the run has begun; it goes on until the environment is
                left, or closed.
            **options: the other arguments of ``submit``.
        """
        from asyncio import CancelledError

        from sage.common.core.awaiting import in_thread

        try:
            await in_thread(self.submit, autostop, **options)
        except CancelledError as cancelled:
            await in_thread(self.close)
            self._say_what_is_kept(cancelled)
            raise
        except GeneratorExit:  # its event loop has ended
            in_background(self.close)
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        from sage.common.core.awaiting import in_thread

        await in_thread(self.close)
