"""How long the other side may take to answer. Time without a working path to it does not count."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf

import trio

from iceagent.net.background import open_background
from iceagent.session.session import Session


@asynccontextmanager
async def answer_within(session: Session, seconds: float) -> AsyncIterator[None]:
    """Bound the body as `trio.fail_after` does, but count only time in which the path answers.

    An outage stops the clock, and its end begins it anew: what the body waits for may have been lost and has to be sent
    again. A session that ends breaks the body's streams, so that nothing waits for ever.

    Raises:
        trio.TooSlowError: over a path that answered, what was waited for did not come in `seconds`.
    """
    scope = trio.CancelScope(deadline=trio.current_time() + seconds)

    async def follow() -> None:
        while True:
            scope.deadline = trio.current_time() + seconds if session.outage is None else inf
            await session.wait_outage_changed()

    async with open_background() as nursery:
        nursery.start_soon(follow)
        with scope:
            yield
    if scope.cancelled_caught:
        raise trio.TooSlowError
