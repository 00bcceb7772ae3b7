"""How connections turned out, as members report it: counted once for each session, and nothing else is remembered."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import icesignal
import pytest
import trio
from icesignal import wire
from icesignal.metrics import render
from icesignal.outcomes import LONGEST_MS, MAX_REPORTED, Outcomes
from icesignal.server import Server, serve
from relay_client import connect_raw

import iceagent
from iceagent.agent.explain import RelayReason, VerdictKind

HttpExchange = Callable[[int, bytes], Awaitable[bytes]]


def report(outcome: Literal["direct", "relayed", "failed"] = "direct", why: str = "", ms: int = 100) -> wire.Outcome:
    return wire.Outcome(outcome=outcome, why=why, ms=ms)


def metrics_of(outcomes: Outcomes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    parser: Any = pytest.importorskip("prometheus_client.parser")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(render({}, outcomes.families()))
        for sample in family.samples
    }


def test_outcomes_are_totals_and_a_histogram() -> None:
    """What an operator wants to see: how many are direct, why others are not, and how long it took."""
    outcomes = Outcomes()
    reports = [report(), report(ms=900), report("relayed", "udp-blocked", 2000), report("failed", "what?", 10**15)]
    assert all(outcomes.note(bytes([number]) * 16, one) for number, one in enumerate(reports))
    found = metrics_of(outcomes)

    def total(outcome: str, why: str) -> float:
        return found["icesignal_outcomes_total", frozenset({("outcome", outcome), ("why", why)})]

    assert (total("direct", ""), total("relayed", "udp-blocked"), total("failed", "other")) == (2, 1, 1)
    assert outcomes.totals == {"direct": 2, "relayed": 1, "failed": 1}

    def bucket(outcome: str, le: str) -> float:
        return found["icesignal_outcome_seconds_bucket", frozenset({("outcome", outcome), ("le", le)})]

    assert [bucket("direct", le) for le in ("0.1", "0.5", "1.0", "+Inf")] == [1, 1, 2, 2]
    assert bucket("failed", "60.0") == 0
    assert found["icesignal_outcome_seconds_count", frozenset({("outcome", "failed")})] == 1
    assert found["icesignal_outcome_seconds_sum", frozenset({("outcome", "direct")})] == 1.0
    assert found["icesignal_outcome_seconds_sum", frozenset({("outcome", "failed")})] == LONGEST_MS / 1000


def test_a_session_reports_once_and_the_table_is_bounded() -> None:
    """Nobody makes a relay look better or worse than others do."""
    outcomes = Outcomes()
    assert outcomes.note(b"s" * 16, report())
    assert not outcomes.note(b"s" * 16, report("failed"))
    for number in range(MAX_REPORTED):
        assert outcomes.note(number.to_bytes(16, "big"), report())
    assert outcomes.totals["direct"] == MAX_REPORTED + 1
    assert len(outcomes._reported) == MAX_REPORTED


def test_every_reason_of_ours_is_one_that_relays_know() -> None:
    """A report whose reason nobody knows says nothing."""
    assert {one.value for one in RelayReason} <= wire.WHYS
    before = {"closed", "connected", "relayed", "stopped", "checking", "silent", "restart-unanswered"}
    before |= {"waiting-for-credentials", "waiting-for-candidates"}
    assert {one.value for one in VerdictKind} - before <= wire.WHYS
    assert all(len(why) <= 40 for why in wire.WHYS)


async def test_only_members_report_and_only_once(http_exchange: HttpExchange) -> None:
    """Also after they have resumed; what is none is an error like any other, and ends nothing."""
    async with serve() as server:
        async with connect_raw(server.url) as member:
            assert wire.OFFERS_OUTCOMES in member.welcome.offers
            member.say(report())
            joined = await member.ask(wire.Allocate(session=bytes(16)))
            assert isinstance(joined, wire.Joined)
            member.say(report("relayed", "policy"))
            member.say(report("failed"))
            member.say_bytes(wire.encode(report()).replace(b"direct", b"wonder"))
            assert isinstance(await member.hear(), wire.Error)
        async with connect_raw(server.url) as again:
            resume = wire.Resume(session=bytes(16), token=joined.token, epoch=joined.epoch, seq=joined.seq)
            assert isinstance(await again.ask(resume), wire.Resumed)
            again.say(report())
            assert isinstance(await again.ask(wire.AskServers()), wire.Servers)
        assert server.outcomes.totals == {"direct": 0, "relayed": 1, "failed": 0}
        assert server.statistics()["outcomes_left_out"] == 3
        text = await http_exchange(server.port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b'icesignal_outcomes_total{outcome="relayed",why="policy"} 1\n' in text


async def until(server: Server, **totals: int) -> None:
    """Wait for reports: sessions do not wait for the relay to count them."""
    with trio.fail_after(60):
        while server.outcomes.totals | totals != server.outcomes.totals:
            await trio.sleep(0.01)


async def test_sessions_report_that_they_are_direct() -> None:
    """Both sides, each for itself: they may differ in what they waited for."""
    async with serve() as server, iceagent.invite(relay=server.url) as invitation, trio.open_nursery() as nursery:

        async def accept() -> None:
            async with invitation.accept():
                await trio.sleep_forever()

        nursery.start_soon(accept)
        async with iceagent.join(invitation.code, relay=server.url):
            await until(server, direct=2)
        nursery.cancel_scope.cancel()


async def test_a_relay_that_counts_nothing_is_told_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """One of before would answer with an error."""
    async with serve() as server, icesignal.open_client(server.url) as client:
        await client.allocate()
        client.welcome.offers.remove(wire.OFFERS_OUTCOMES)
        with caplog.at_level(logging.DEBUG):
            client.report_outcome("direct", "", 1.0)
        await client.renew_ice_servers()
        assert server.outcomes.totals["direct"] == 0
