"""What a running `forward` answers at its control socket."""

from __future__ import annotations

from typing import Any

import pytest
from fake_link import linked_sessions

from iceagent.cli import open_forwards as module
from iceagent.cli.control.running import RUNNING
from iceagent.cli.open_forwards import open_forwards
from iceagent.tunnel.errors import RefusedError, SpecError
from iceagent.tunnel.forward import Forward
from iceagent.tunnel.serve import serve_forwards


async def test_what_is_asked_for_is_looked_at_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes from another program of this user's."""
    shown: list[Forward] = []
    async with (
        linked_sessions() as (joiner, inviter),
        serve_forwards(inviter, ["tcp:localhost:9"]),
        open_forwards(joiner, shown.append) as forwards,
    ):
        assert set(RUNNING.get().handlers) == {"forward.add", "forward.remove"}
        wishes: list[dict[str, Any]] = [
            {},
            {"spec": 7},
            {"spec": "0:localhost:9", "direction": "up"},
            {"direction": []},
        ]
        for wish in wishes:
            with pytest.raises(SpecError, match="name what to forward, and its direction"):
                await forwards.add(wish)
        with pytest.raises(RefusedError):
            await forwards.add({"spec": "0:localhost:10"})
        assert shown == []
        added = await forwards.add({"spec": "0:localhost:9"})
        assert [one.bind for one in shown] == [added["bind"]]
        monkeypatch.setattr(module, "MAX_FORWARDS", 1)
        with pytest.raises(SpecError, match="1 forwards already; remove one"):
            await forwards.add({"spec": "0:localhost:9"})
        for bind in (None, 7, "", "127.0.0.1:1"):
            with pytest.raises(SpecError, match="no forward is open at"):
                await forwards.remove({"bind": bind})
        assert (await forwards.remove({"bind": added["bind"]}))["bind"] == added["bind"]
    assert RUNNING.get().handlers == {}
