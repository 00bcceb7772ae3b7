"""The status page of a relay: what its numbers are made from, who gets them, and what a browser may do with it."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import icesignal
import pytest
import trio
from click.testing import CliRunner
from icesignal import wire
from icesignal.config_checks import read_status_token
from icesignal.engines import MemoryEngine
from icesignal.main import main
from icesignal.metrics import Family, render
from icesignal.registry import RoomLimits
from icesignal.server import Server, serve
from icesignal.status.door import GUESSES, Admission, TokenDoor
from icesignal.status.history import MAX_ROWS, SERIES, STEP_S, History, values_of
from icesignal.status.readings import Readings
from relay_client import connect_raw

TOKEN = "correct-horse-battery-staple"
RIGHT = f"Bearer {TOKEN}".encode()
HttpExchange = Callable[[int, bytes], Awaitable[bytes]]
UNGUARDED = ("/status", "/status/page.css", "/status/page.js", "/status/chart.js", "/status/icon.svg")
GUARDED = ("/status/now.json", "/status/history.json")


def asking(path: str, *more: bytes, method: str = "GET") -> bytes:
    head = [f"{method} {path} HTTP/1.1".encode(), b"Host: relay.example", *more]
    return b"\r\n".join([*head, b"", b""])


def authorized(path: str) -> bytes:
    return asking(path, b"Authorization: " + RIGHT)


def admin_of(server: Server) -> int:
    return server.admin_addresses[0][1]


# -- what the numbers are made from


def test_readings_are_the_samples_of_the_text() -> None:
    """By the very words that stand there, so that whoever compares the two finds the same."""
    odd = Family("odd", "gauge", "Has \\ and\nlines.", [("", (("why", 'a "b" \\ {c}'), ("at", "x y")), 2.5)])
    readings = Readings.of(render({"engine_rooms": 3, "frames_in": 7}, [odd]))
    found = {key: one.value for key, one in readings.samples.items()}
    key = r'icesignal_odd{why="a \"b\" \\ {c}",at="x y"}'
    assert found == {"icesignal_engine_rooms": 3, "icesignal_frames_in_total": 7, key: 2.5}
    assert readings.samples[key].labels == {"why": r"a \"b\" \\ {c}", "at": "x y"}
    assert readings.meanings["icesignal_engine_rooms"] == "Rooms now."


@pytest.mark.parametrize("line", ["", "x", "x y", "x NaN", "x +Inf", "x{ 1", "1x 1", "x{a=} 1 2", "# TYPE x gauge"])
def test_what_is_no_number_is_left_out(line: str) -> None:
    """JSON has neither NaN nor the infinite: browsers would take nothing of such an answer."""
    assert not Readings.of(f"{line}\n").samples


def test_what_nobody_counts_is_not_known() -> None:
    """A counter of the relay begins with 0; a TURN server that is none of this process's is no server without use."""
    values = values_of(Readings.of(""))
    assert values["messages"] == values["refusals"] == values["direct"] == 0
    assert values["turn_allocations"] is None
    assert values["rooms"] is None


def test_series_add_up_what_belongs_together() -> None:
    """Outcomes by their kind, whatever the reason; refusals of every sort; ports of all hosts."""
    text = (
        'icesignal_outcomes_total{outcome="direct",why=""} 3\nicesignal_outcomes_total{outcome="failed",why="a"} 1\n'
        'icesignal_outcomes_total{outcome="failed",why="b"} 2\nicesignal_outcome_seconds_count{outcome="failed"} 9\n'
        "icesignal_engine_refused_crowded_total 4\nicesignal_joins_over_limit_total 2\n"
        'iceagent_turn_ports{host="a",state="used"} 1.0\niceagent_turn_ports{host="b",state="used"} 2.0\n'
        'iceagent_turn_ports{host="b",state="free"} 5.0\n'
    )
    values = values_of(Readings.of(text))
    assert (values["direct"], values["relayed"], values["failed"]) == (3, 0, 3)
    assert values["refusals"] == 6
    assert (values["turn_ports_used"], values["turn_ports_free"]) == (3, 5)


def test_the_past_is_an_hour_and_bounded() -> None:
    """However long a relay runs."""
    history = History()
    for number in range(MAX_ROWS + 50):
        history.note(number * STEP_S, Readings.of(f"icesignal_engine_rooms {number}\n"))
    told = history.told((MAX_ROWS + 49) * STEP_S)
    assert len(history) == len(told["ages_s"]) == MAX_ROWS
    assert (told["ages_s"][0], told["ages_s"][-1]) == (3600, 0)
    assert told["series"]["rooms"][-1] == MAX_ROWS + 49
    assert {len(values) for values in told["series"].values()} == {MAX_ROWS}
    assert set(told["series"]) == {one.name for one in SERIES}


# -- who gets them


def test_the_token_is_what_follows_bearer() -> None:
    """In whatever letters the word comes; nothing else opens, nor two answers at once."""
    door = TokenDoor(TOKEN.encode())
    assert door.check(0, "192.0.2.1", [RIGHT]) == Admission.RIGHT
    assert door.check(0, "192.0.2.1", [RIGHT.replace(b"Bearer", b"bearer ")]) == Admission.RIGHT
    wrong: list[list[bytes]] = [
        [],
        [b""],
        [TOKEN.encode()],
        [b"Basic " + TOKEN.encode()],
        [RIGHT + b"x"],
        [RIGHT[:-1]],
        [b"Bearer "],
        [RIGHT, RIGHT],
    ]
    for number, credentials in enumerate(wrong):
        assert door.check(0, f"192.0.2.{number + 9}", credentials) == Admission.WRONG, credentials


async def test_trap_89_numbers_are_for_the_token_alone(http_exchange: HttpExchange) -> None:
    """The page knows nothing, and may be loaded by anybody who reaches the listener."""
    async with serve(admin=("127.0.0.1", 0), status_token=TOKEN) as server:
        admin = admin_of(server)
        for path in UNGUARDED:
            answer = await http_exchange(admin, asking(path))
            assert answer.startswith(b"HTTP/1.1 200 "), path
            assert TOKEN.encode() not in answer
        for path in GUARDED:
            for more in ((), (b"Authorization: Bearer " + b"x" * 28,), (b"Cookie: token=" + TOKEN.encode(),)):
                answer = await http_exchange(admin, asking(path, *more))
                assert answer.startswith(b"HTTP/1.1 401 "), path
                assert b"{" not in answer
            assert (await http_exchange(admin, asking(f"{path}?token={TOKEN}"))).startswith(b"HTTP/1.1 401 ")
            answer = await http_exchange(admin, authorized(path))
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert json.loads(answer.partition(b"\r\n\r\n")[2])["version"] == 1
            assert TOKEN.encode() not in answer
        assert server.statistics()["status_tokens_wrong"] == 8


async def test_trap_89_the_page_is_on_no_listener_of_clients(http_exchange: HttpExchange) -> None:
    """Strangers could try tokens there."""
    async with serve(admin=("127.0.0.1", 0), status_token=TOKEN) as server:
        for path in (*UNGUARDED, *GUARDED):
            assert (await http_exchange(server.port, authorized(path))).startswith(b"HTTP/1.1 404 ")
    with pytest.raises(ValueError, match="--admin-listen"):
        async with serve(status_token=TOKEN):
            pass


async def test_trap_90_wrong_tokens_of_a_source_are_few(http_exchange: HttpExchange) -> None:
    """After ten of them none is looked at, not even the right one: an answer would tell which it is."""
    wrong = asking("/status/now.json", b"Authorization: Bearer wrong")
    async with serve(admin=("127.0.0.1", 0), status_token=TOKEN) as server:
        admin = admin_of(server)
        for _ in range(int(GUESSES.burst)):
            assert (await http_exchange(admin, authorized("/status/now.json"))).startswith(b"HTTP/1.1 200 ")
            assert (await http_exchange(admin, asking("/status/now.json"))).startswith(b"HTTP/1.1 401 ")
            assert (await http_exchange(admin, wrong)).startswith(b"HTTP/1.1 401 ")
        for request in (wrong, authorized("/status/now.json")):
            answer = await http_exchange(admin, request)
            assert answer.startswith(b"HTTP/1.1 429 ")
            assert b"\r\nRetry-After: 10\r\n" in answer
        assert (await http_exchange(admin, asking("/status"))).startswith(b"HTTP/1.1 200 ")


def test_trap_90_a_source_that_guesses_shuts_out_nobody_else_nor_itself_for_long() -> None:
    """An IPv6 network counts as one source; ten seconds bring one try."""
    door = TokenDoor(TOKEN.encode())
    for number in range(40):
        door.check(0, f"2001:db8::{number:x}", [b"Bearer wrong"])
    assert door.check(0, "2001:db8::ffff", [RIGHT]) == Admission.TOO_MANY
    assert door.check(0, "2001:db8:1::1", [RIGHT]) == Admission.RIGHT
    assert door.check(0, "192.0.2.1", [RIGHT]) == Admission.RIGHT
    assert door.check(9.9, "2001:db8::ffff", [RIGHT]) == Admission.TOO_MANY
    assert door.check(10.1, "2001:db8::ffff", [RIGHT]) == Admission.RIGHT


async def test_trap_90_a_proxy_in_front_says_who_guesses(http_exchange: HttpExchange) -> None:
    """Only one that is trusted; else whoever guesses would name another source each time."""
    for proxies, status in ((["127.0.0.1"], b"200"), ([], b"429")):
        async with serve(admin=("127.0.0.1", 0), status_token=TOKEN, trusted_proxies=proxies) as server:
            admin = admin_of(server)
            for _ in range(int(GUESSES.burst)):
                headers = (b"Authorization: Bearer wrong", b"X-Forwarded-For: 192.0.2.1")
                await http_exchange(admin, asking("/status/now.json", *headers))
            headers = (b"Authorization: " + RIGHT, b"X-Forwarded-For: 192.0.2.2")
            answer = await http_exchange(admin, asking("/status/now.json", *headers))
            assert answer.startswith(b"HTTP/1.1 %s " % status)


async def test_trap_91_a_browser_runs_no_script_of_others_and_keeps_nothing(http_exchange: HttpExchange) -> None:
    """What got into the page could read the token: nothing gets in, no frame is around it, no form goes anywhere."""
    async with serve(admin=("127.0.0.1", 0), status_token=TOKEN) as server:
        for path in UNGUARDED:
            head = (await http_exchange(admin_of(server), asking(path, method="HEAD"))).decode()
            policy = head.partition("Content-Security-Policy: ")[2].partition("\r\n")[0].split("; ")
            for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'"):
                assert rule in policy, path
            assert "unsafe" not in head
            assert "\r\nCache-Control: no-store\r\n" in head
            assert "\r\nX-Frame-Options: DENY\r\n" in head
            assert "\r\nX-Content-Type-Options: nosniff\r\n" in head
            assert head.endswith("\r\n\r\n"), "HEAD has no body"
        page = (await http_exchange(admin_of(server), asking("/status"))).decode()
    assert "://" not in page
    assert re.search(r"\son\w+=", page) is None
    assert "style=" not in page
    assert 'name="token"' not in page, "a form that no script catches would put the token into the URL"


async def test_without_a_token_there_is_no_page(http_exchange: HttpExchange) -> None:
    """But a sentence that says how to get one; other methods and other paths have none."""
    async with serve(admin=("127.0.0.1", 0)) as server:
        for path in ("/status", "/status/now.json", "/status/"):
            answer = await http_exchange(admin_of(server), authorized(path))
            assert answer.startswith(b"HTTP/1.1 404 ")
            assert b"status_token_file" in answer
    async with serve(admin=("127.0.0.1", 0), status_token=TOKEN) as server:
        for path, method, status in (("/status", "POST", 405), ("/status/../x", "GET", 404), ("/statuses", "GET", 404)):
            answer = await http_exchange(admin_of(server), asking(path, method=method))
            assert answer.startswith(b"HTTP/1.1 %d " % status)


# -- what they get


async def told(exchange: HttpExchange, server: Server, what: str) -> dict[str, Any]:
    answer = await exchange(admin_of(server), authorized(f"/status/{what}.json"))
    found: dict[str, Any] = json.loads(answer.partition(b"\r\n\r\n")[2])
    return found


async def test_the_numbers_are_those_of_the_metrics(http_exchange: HttpExchange) -> None:
    """All of them, also those of a TURN server in the same process; and the state in a word."""
    more = 'iceagent_turn_allocations 4.0\niceagent_turn_relayed_bytes_total{direction="to_peer"} 2.5e+06\n'
    async with (
        serve(admin=("127.0.0.1", 0), status_token=TOKEN, more_metrics=lambda: more) as server,
        connect_raw(server.url) as member,
    ):
        await member.ask(wire.Allocate(session=bytes(16)))
        now = await told(http_exchange, server, "now")
        text = (await http_exchange(admin_of(server), asking("/metrics"))).partition(b"\r\n\r\n")[2].decode()
        assert now["samples"] == {key: one.value for key, one in Readings.of(text).samples.items()}
        assert now["values"] == values_of(Readings.of(text))
        assert (now["values"]["rooms"], now["values"]["members"], now["values"]["entries"]) == (1, 1, 1)
        assert now["values"]["turn_to_peer"] == 2_500_000
        assert now["state"] == "ready"
        server.drain()
        assert (await told(http_exchange, server, "now"))["state"] == "draining"


async def test_a_store_that_is_away_and_a_relay_that_is_full_of_rooms_are_told_apart(
    http_exchange: HttpExchange,
) -> None:
    """As /readyz has it; an operator looked for a Redis that he does not have."""

    class Away(MemoryEngine):
        def statistics(self) -> dict[str, int]:
            return {**super().statistics(), "store_away": 1}

    async with serve(admin=("127.0.0.1", 0), status_token=TOKEN, engine=Away()) as server:
        assert (await told(http_exchange, server, "now"))["state"] == "store-away"
    full = MemoryEngine(limits=RoomLimits(max_rooms=1))
    async with (
        serve(admin=("127.0.0.1", 0), status_token=TOKEN, engine=full) as server,
        icesignal.open_client(f"ws://127.0.0.1:{server.port}") as client,
    ):
        await client.allocate()
        assert (await told(http_exchange, server, "now"))["state"] == "full"


async def test_numbers_that_cannot_be_read_leave_a_gap_and_a_relay_that_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def break_down() -> str:
        raise RuntimeError("a metric of somebody else's")

    async with serve(admin=("127.0.0.1", 0), status_token=TOKEN, more_metrics=break_down) as server:
        await trio.sleep(STEP_S * 2.5)
        assert server.counters["internal_errors"] >= 2


async def test_a_token_that_everybody_has_is_none() -> None:
    for token in ("", "  "):
        with pytest.raises(ValueError, match="empty"):
            async with serve(admin=("127.0.0.1", 0), status_token=token):
                pass


async def test_the_past_is_there_when_a_page_opens(
    http_exchange: HttpExchange, autojump_clock: trio.testing.MockClock
) -> None:
    """Looked at every ten seconds, whoever watches; of this process alone."""
    async with serve(admin=("127.0.0.1", 0), status_token=TOKEN) as server:
        await trio.sleep(STEP_S * 6.5)
        autojump_clock.autojump_threshold = float("inf")  # from here on it waits for real sockets
        past, now = await told(http_exchange, server, "history"), await told(http_exchange, server, "now")
    assert past["ages_s"] == [65, 55, 45, 35, 25, 15, 5]
    assert past["series"]["rooms"] == [0] * 7
    assert past["run"] == now["run"]
    assert past["meanings"]["icesignal_engine_rooms"] == "Rooms now."
    assert now["uptime_s"] == 65


# -- where the token comes from


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("short\n", "at least 16 characters"), ("with spaces in between it\n", "no spaces"), ("ä" * 20, "no spaces")],
)
def test_a_file_without_a_good_token_is_told(tmp_path: Path, content: str, sentence: str) -> None:
    """By its name, and never by what it holds."""
    file = tmp_path / "token"
    file.write_text(content, encoding="utf-8")
    file.chmod(0o600)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_status_token(str(file))
    assert str(file) in str(caught.value)
    assert content.strip() not in str(caught.value)


def test_a_token_that_others_may_read_is_told(tmp_path: Path) -> None:
    """As for all secrets; the option and the configuration are the same."""
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\nwhat follows is not looked at\n", encoding="utf-8")
    file.chmod(0o600)
    assert read_status_token(str(file)) == TOKEN
    file.chmod(0o644)
    config = tmp_path / "relay.toml"
    config.write_text('admin_listen = "127.0.0.1:0"\nstatus_token_file = "token"\n', encoding="utf-8")
    arguments = ["--admin-listen", "127.0.0.1:0", "--status-token-file", str(file)]
    for command in (["check-config", str(config)], ["--config", str(config)], arguments):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 2
        assert f"chmod 640 {file}" in done.output.replace("\n", " ")


def test_a_token_without_a_listener_for_operators_is_told(tmp_path: Path) -> None:
    """Before anything listens."""
    file = tmp_path / "token"
    file.write_text(TOKEN, encoding="utf-8")
    file.chmod(0o600)
    done = CliRunner().invoke(main, ["--listen", "127.0.0.1:0", "--status-token-file", str(file)])
    assert done.exit_code == 2
    assert "--admin-listen" in done.output
