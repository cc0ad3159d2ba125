"""Whose turn it is: so many requests work at once, so many more wait, and who comes then is told to come again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from anyio import CapacityLimiter, to_thread

from api.errors import RateLimited

RETRY_SECONDS = 1

Result = TypeVar("Result")


class Turns:
    """Places for the requests of one kind, counted in the event loop: nothing there comes between two lines."""

    def __init__(self, max_working: int, max_waiting: int) -> None:
        self._working = CapacityLimiter(max_working)
        self._threads = CapacityLimiter(max_working)  # of their own: they may wait, and no other route for them
        self._num_places = max_working + max_waiting
        self.num_taken = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Take a place, wait until others have worked, and give the place back after the block, however it ends.

        Raises `RateLimited` where no place is free.
        """
        self.refuse_when_full()
        self.num_taken += 1
        try:
            async with self._working:
                yield
        finally:
            self.num_taken -= 1

    async def run(self, work: Callable[[], Result]) -> Result:
        """What the function returns, called within a turn in one thread."""
        async with self.turn():
            return await self.in_thread(work)

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """The same for who has a turn."""
        return await to_thread.run_sync(work, limiter=self._threads)

    def refuse_when_full(self) -> None:
        """Raises `RateLimited` where no place is free: before a body is read for nothing."""
        if self.num_taken >= self._num_places:
            raise RateLimited(
                "Too many requests wait for their turn; try again.", retry_after=RETRY_SECONDS, code="overloaded"
            )
