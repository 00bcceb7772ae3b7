"""The status page in a real browser, of real relays: what it shows is what `/metrics` says, and it asks nobody else."""

from __future__ import annotations

import math
import re
import signal
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from chromium import WHY_NOT, Page, open_chromium
from icesignal import wire
from processes import Processes
from relay_client import connect_raw, sealed_pair
from status_world import RELAY, SERVE, TURN, enter, give, relayed, report, start

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT),
]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
# All lines that are shown, as [its chart, its path].
LINES = """[...document.querySelectorAll('figure:not([hidden])')].flatMap((figure) =>
    [...figure.querySelectorAll(':scope > svg path.line')].map((path) =>
        [figure.querySelector('figcaption').firstChild.data, path.getAttribute('d')]))"""
TABLE = (
    "[...document.querySelectorAll('#samples tr')].map((row) => row.dataset.sample + ' ' + row.cells[1].textContent)"
)


@asynccontextmanager
async def a_page() -> AsyncIterator[Page]:
    async with open_chromium() as browser:
        page = await browser.page()
        await page.show(1000, 800)
        yield page


async def metrics(admin: str) -> Samples:
    def read() -> str:
        with urllib.request.urlopen(f"{admin}/metrics", timeout=60) as answer:
            text: bytes = answer.read()
        return text.decode()

    return samples_of(await trio.to_thread.run_sync(read))


def samples_of(text: str) -> Samples:
    """Return what a text says, as others than we read it."""
    parser: Any = pytest.importorskip("prometheus_client.parser")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


async def same_numbers(page: Page, admin: str) -> Samples:
    """Wait until the page has what `/metrics` said before and after it was looked at; return that."""
    with trio.fail_after(120):
        while True:
            before = await metrics(admin)
            shown = samples_of("\n".join(await page.js(TABLE)) + "\n")
            if shown == before == await metrics(admin):
                return before
            await trio.sleep(0.2)


async def tile(page: Page, name: str) -> str:
    text: str = await page.js(f"document.querySelector('[data-tile=\"{name}\"]').textContent")
    return text.strip()


def total(samples: Samples, name: str, **labels: str) -> float:
    return sum(value for (one, has), value in samples.items() if one == name and set(labels.items()) <= has)


def points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.-]+) ([\d.-]+)", path)]


@pytest.mark.parametrize("command", [RELAY, (*SERVE, *TURN)], ids=["icesignal-relay", "serve"])
async def test_charts_draw_and_numbers_are_those_of_the_metrics(
    run: Processes, tmp_path: Path, command: tuple[str, ...]
) -> None:
    """While peers meet, talk, report and are relayed; no complaint, and nobody else is asked for anything."""
    has_turn = "--turn" in command
    line = start(run, command, tmp_path).wait_for("listening")
    url, admin = line["url"], line["admin"]
    async with a_page() as page:
        await enter(page, admin)
        assert await tile(page, "rooms") == "0"
        async with sealed_pair(url) as (one, other), connect_raw(url) as alone:
            await alone.ask(wire.Allocate(session=b"a" * 16))
            for number, (outcome, why) in enumerate([("direct", ""), ("direct", ""), ("relayed", "udp-blocked")]):
                await report(url, number, outcome, why)  # type: ignore[arg-type]
            for _ in range(20):
                await one.send({"hello": b"to you alone"})
                await other.receive()
            if has_turn:
                async with relayed(line, datagrams=50):
                    samples = await same_numbers(page, admin)
                    assert await tile(page, "turn_allocations") == "1"
                    assert total(samples, "iceagent_turn_relayed_bytes_total", direction="to_peer") >= 50_000
            else:
                samples = await same_numbers(page, admin)
                assert await tile(page, "turn_allocations") == "unknown"
            rooms, members = (total(samples, f"icesignal_engine_{name}") for name in ("rooms", "sessions"))
            assert (await tile(page, "rooms"), await tile(page, "members")) == (f"{rooms:g}", f"{members:g}")
            connections, limit = (total(samples, f"icesignal_connections_{name}") for name in ("open", "limit"))
            assert await tile(page, "connections") == f"{connections:g} of {limit:,.0f}"
            shares = await page.js("document.getElementById('shares').innerText")
            assert "direct 2 (66.7 %)" in shares
            assert "failed 0 (0.0 %)" in shares
            lines = await page.js(LINES)
        assert len(lines) == (13 if has_turn else 10), "each line of each chart"
        for chart, path in lines:
            assert len(points(path)) >= 2, chart
            assert all(math.isfinite(x) and 0 <= y <= 800 for x, y in points(path)), (chart, path)
        rising = {chart for chart, path in lines if len({y for _, y in points(path)}) > 1}
        assert {"Here now", "Messages", "Entries and refusals", "Outcomes reported"} <= rising
        assert has_turn is ("TURN traffic" in rising)
        assert page.complaints == []
        assert {f"{urlsplit(one).scheme}://{urlsplit(one).netloc}" for one in page.asked} == {admin}
        assert not [one for one in page.asked if "?" in one]


@pytest.mark.parametrize("dark", [False, True])
async def test_a_phone_shows_it_without_scrolling_sideways(run: Processes, tmp_path: Path, dark: bool) -> None:
    """All of it, the long names of all metrics too, and what a screen reader is told; light and dark differ."""
    line = start(run, (*SERVE, *TURN), tmp_path).wait_for("listening")
    async with a_page() as page:
        await page.show(360, 740, scale=2, dark=dark)
        await page.go(f"{line['admin']}/status")
        await page.wait("document.activeElement?.id === 'token'")
        assert await page.js("document.documentElement.scrollWidth") == 360
        await enter(page, line["admin"])
        await report(line["url"], 1, "relayed", "both-map-per-destination")
        await page.wait("document.getElementById('shares').innerText.includes('relayed 1 (100.0 %)')")
        await page.js("document.querySelector('details').open = true")
        await page.screenshot(tmp_path / "phone.png", whole=True)
        assert (tmp_path / "phone.png").stat().st_size > 10_000
        assert await page.js("document.documentElement.scrollWidth") == 360
        over = "[...document.querySelectorAll('main *')].filter((one) => one.getBoundingClientRect().right > 360.5)"
        assert await page.js(f"{over}.map((one) => one.outerHTML.slice(0, 80))") == []
        labels = await page.js(
            "[...document.querySelectorAll('figure:not([hidden]) > svg')].map((one) => one.ariaLabel)"
        )
        assert len(labels) == 6
        assert all(re.fullmatch(r".+: .+ now .+, from .+ to .+|.+ unknown.*", label) for label in labels), labels
        light = await page.js("getComputedStyle(document.body).backgroundColor") == "rgb(246, 247, 249)"
        assert light is not dark
        assert page.complaints == []


async def test_a_wrong_token_is_told_and_forgotten(run: Processes, tmp_path: Path) -> None:
    """The right one is kept by this tab, over a reload, until it is told to forget it."""
    line = start(run, RELAY, tmp_path).wait_for("listening")
    kept = "sessionStorage.getItem('icesignal-status-token')"
    async with a_page() as page:
        await page.go(f"{line['admin']}/status")
        assert page.complaints == []
        for wrong in ("guessed-guessed-guessed", "wörter"):
            await give(page, wrong)
            await page.wait("document.getElementById('refusal').textContent.includes('not this relay')")
            assert await page.js(kept) is None
            assert await page.js("document.getElementById('numbers').hidden")
            await page.js("document.getElementById('refusal').textContent = ''")
        await enter(page, line["admin"])
        await page.call("Page.reload")
        await page.wait(
            "!document.getElementById('numbers').hidden && document.querySelector('[data-tile]').textContent"
        )
        await page.js("document.getElementById('forget').click()")
        await page.wait("document.activeElement?.id === 'token'")
        assert await page.js(kept) is None
        assert all("401" in one for one in page.complaints), "what the browser itself says of a refusal"
        for _ in range(10):
            await give(page, "guessed-guessed-guessed")
            await page.wait("document.getElementById('refusal').textContent")
            await page.js("document.getElementById('refusal').textContent = ''")
        await give(page, "guessed-guessed-guessed")
        await page.wait("document.getElementById('refusal').textContent.includes('Too many')")


async def test_it_says_when_the_relay_does_not_answer_and_goes_on_with_the_next(run: Processes, tmp_path: Path) -> None:
    """Silent, back again, killed, started anew: the page is told nothing but what the relay answers, or does not."""
    banner = "document.getElementById('banner')"
    process = start(run, RELAY, tmp_path)
    line = process.wait_for("listening")
    async with a_page() as page:
        await enter(page, line["admin"])
        assert await page.js(f"{banner}.hidden")
        process.signal(signal.SIGSTOP)
        await page.wait(f"!{banner}.hidden && {banner}.textContent.startsWith('No answer since ')")
        assert await tile(page, "state") == "unknown"
        assert await page.js("document.body.classList.contains('stale')")
        process.signal(signal.SIGCONT)
        await page.wait(f"{banner}.hidden")
        assert await tile(page, "state") == "ready"
        process.signal(signal.SIGKILL)
        await page.wait(f"!{banner}.hidden")
        await trio.to_thread.run_sync(process.wait)
        again = start(run, RELAY, tmp_path, admin=urlsplit(line["admin"]).netloc)
        url = again.wait_for("listening")["url"]
        await page.wait(f"{banner}.hidden")
        async with connect_raw(url) as member:
            await member.ask(wire.Allocate(session=bytes(16)))
            await page.wait("document.querySelector('[data-tile=\"rooms\"]').textContent.trim() === '1'")
        path = next(path for chart, path in await page.js(LINES) if chart == "Here now")
        assert path.count("M") >= 2, "nothing is drawn between two processes"
        rates = next(path for chart, path in await page.js(LINES) if chart == "Messages")
        assert rates.count("M") >= 2
        assert all("Failed to load resource" in one for one in page.complaints)


async def test_it_says_that_the_relay_goes_away(run: Processes, tmp_path: Path) -> None:
    """As long as clients are being sent away, and there is somebody to ask."""
    process = start(run, RELAY, tmp_path, "--drain", "3600")
    line = process.wait_for("listening")
    async with a_page() as page, trio.open_nursery() as nursery:
        for number in range(3):  # that all of them are sent away at once is out of the question
            nursery.start_soon(partial(stay, line["url"], number))
        await enter(page, line["admin"])
        await page.wait("document.querySelector('[data-tile=\"rooms\"]').textContent.trim() === '3'")
        process.signal(signal.SIGTERM)
        await page.wait("document.getElementById('banner').textContent.includes('going away')")
        assert await tile(page, "state") == "draining"
        assert page.complaints == []
        process.signal(signal.SIGTERM)
        nursery.cancel_scope.cancel()


async def stay(url: str, number: int) -> None:
    async with connect_raw(url) as member:
        await member.ask(wire.Allocate(session=bytes([number]) * 16))
        await member.end()


ROWS = """[[0, 'a', 0], [1000, 'a', 1], [3000, 'a', 5], [4000, 'a', 4], [5000, '', null],
    [6000, 'b', 9], [7000, 'b', 12]].map(([t, run, n]) => ({t, run, values: n === null ? null : {n}}))"""


async def test_what_is_not_known_is_neither_a_number_nor_drawn(run: Processes, tmp_path: Path) -> None:
    """Between two processes, where a counter went back, and before there are two looks; in words for people."""
    line = start(run, RELAY, tmp_path).wait_for("listening")
    async with a_page() as page:
        await page.go(f"{line['admin']}/status")

        async def value(expression: str) -> Any:
            return await page.js(
                f"import('./status/chart.js').then((c) => {{ const rows = {ROWS}; return {expression}; }})"
            )

        assert await value("[0, 7, 1234, 0.256, 12.34, 123.4, 2.5e6, null, undefined, NaN].map(c.count)") == [
            *("0", "7", "1,234", "0.26", "12.3", "123", "2.5 M"),
            *("unknown", "unknown", "unknown"),
        ]
        assert await value("[c.amount(1536, 'bytes'), c.amount(999, 'bit/s'), c.amount(237800, 'bit/s')]") == [
            ["1.50", "KiB"],
            ["999", "bit/s"],
            ["237.8", "kbit/s"],
        ]
        assert await value("c.amount(null, 'bit/s')") == ["unknown", ""]
        assert await value("[89, 90, 7260, 200000].map(c.duration)") == ["89 s", "2 min", "2 h 1 min", "2 d 7 h"]
        assert await value("[0, 0.3, 1, 1.1, 7, 100].map(c.ceiling)") == [1, 0.5, 1, 2, 10, 100]
        assert await value("c.levels(rows, 'n').map((point) => point.y)") == [0, 1, 5, 4, None, 9, 12]
        assert await value("c.rates(rows, 'n', 60).map((point) => point.y)") == [None, 60, 120, None, None, None, 180]
        assert await value("c.rates(rows, 'other', 60).map((point) => point.y)") == [None] * 7
        path = await value("c.path(c.levels(rows, 'n'), (t) => t / 1000, (y) => y)")
        assert path == "M0.0 0.0L1.0 1.0L3.0 5.0L4.0 4.0M6.0 9.0L7.0 12.0"
        dot = await value("c.path(c.rates(rows, 'n', 60), (t) => t / 1000, (y) => y)")
        assert dot == "M1.0 60.0L3.0 120.0M7.0 180.0h0.1"
        assert page.complaints == []
