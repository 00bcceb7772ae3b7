"""What a relay logs of its clients: an event, and today's name of the source; never an address, and never much."""

from __future__ import annotations

import io
import json
import logging
import sys

import icesignal
import pytest
from icesignal.log_format import handler_to
from icesignal.pseudonyms import DAY_S, Pseudonyms
from icesignal.server import serve
from relay_client import connect_raw


def test_trap_79_an_address_has_another_name_each_day() -> None:
    """Within a day it is one source; over days nobody is followed, and a day that comes again has other names, too."""
    time = [10.0 * DAY_S]
    keys = iter(range(10))
    names = Pseudonyms(lambda: time[0], lambda size: bytes([next(keys)]) * size)
    today = names.of("192.0.2.1")
    time[0] += DAY_S - 1
    assert names.of("192.0.2.1") == today
    assert names.of("192.0.2.2") != today
    found = {today}
    for jump in (1, 400 * DAY_S, -401 * DAY_S):  # the next day, a clock that jumps, and that jumps back
        time[0] += jump
        found.add(names.of("192.0.2.1"))
    assert len(found) == 4
    assert all("192" not in name for name in found)


def test_trap_79_two_processes_have_other_names() -> None:
    """The key is nobody's but the process's own: a list of all addresses does not lead back."""
    assert Pseudonyms().of("192.0.2.1") != Pseudonyms().of("192.0.2.1")


async def test_trap_79_logs_name_sources_by_pseudonym_alone(caplog: pytest.LogCaptureFixture) -> None:
    """Refused for too many connections, which everybody can be."""
    limits = icesignal.Limits(max_connections_per_source=1)
    with caplog.at_level(logging.DEBUG):
        async with (
            serve(limits=limits, trusted_proxies=["127.0.0.1"]) as server,
            connect_raw(server.url, source="198.51.100.77"),
        ):
            with pytest.raises(icesignal.SignalError):
                async with connect_raw(server.url, source="198.51.100.77"):
                    pass
    (record,) = (one for one in caplog.records if getattr(one, "event", "") == "connections_refused")
    assert record.getMessage().startswith("source-")
    assert "198.51.100.77" not in caplog.text


def test_json_lines_have_fields() -> None:
    """For programs that collect them: one object a line, whatever is in the message."""
    stream = io.StringIO()
    logger = logging.Logger("icesignal.test")
    logger.addHandler(handler_to(stream, "json"))
    logger.warning("two\nlines %s", "ü", extra={"event": "e", "source": "source-1"})
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("failed")
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "level": "warning",
        "logger": "icesignal.test",
        "message": "two\nlines ü",
        "event": "e",
        "source": "source-1",
    }
    assert "ValueError: why" in second["error"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
def test_a_line_that_cannot_be_written_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The disk is full; the relay is not."""
    full = open("/dev/full", "w")  # noqa: SIM115 - what is left in it cannot be written as it is closed either
    logger = logging.Logger("icesignal.test")
    logger.addHandler(handler_to(full, "text"))
    logger.warning("lost")
    with pytest.raises(OSError, match="No space left"):
        full.close()
    assert capsys.readouterr().err == ""
