"""The retransmission schedule as a value."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stun_strategies import DETERMINISTIC

from iceagent.core import stun

schedules = st.builds(
    stun.RetransmissionSchedule, rto_s=st.floats(0.001, 10), rc=st.integers(1, 12), rm=st.floats(0.5, 32)
)


def test_the_default_schedule_is_the_rfcs_example() -> None:
    """RFC 8489 section 6.2.1: at 0, 500, 1500, 3500, 7500, 15500 and 31500 ms, failed after 39500 ms."""
    schedule = stun.RetransmissionSchedule()
    assert schedule.offsets == (0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5)
    assert schedule.timeout_s == 39.5
    assert schedule == stun.DEFAULT_SCHEDULE


def test_a_reliable_transport_sends_once() -> None:
    """RFC 8489 section 6.2.2: TCP retransmits by itself."""
    schedule = stun.RetransmissionSchedule.reliable()
    assert (schedule.offsets, schedule.timeout_s) == ((0.0,), 39.5)


@pytest.mark.parametrize(
    ("rto_s", "rc", "rm"), [(0, 7, 16), (-1, 7, 16), (math.inf, 7, 16), (0.5, 0, 16), (0.5, 33, 1), (0.5, 7, 0)]
)
def test_a_schedule_that_makes_no_sense_is_refused(rto_s: float, rc: int, rm: float) -> None:
    """A request is sent at least once, and an end comes."""
    with pytest.raises(ValueError):
        stun.RetransmissionSchedule(rto_s, rc, rm)


@DETERMINISTIC
@given(schedules, st.floats(0, 1e9))
def test_walking_a_schedule_visits_every_send_time_and_ends(
    schedule: stun.RetransmissionSchedule, started_at: float
) -> None:
    """Whatever the clock shows and however it rounds: no send is lost, none is doubled."""
    now, visited = started_at, 0
    while now < started_at + schedule.timeout_s:
        visited += 1
        later = schedule.next_after(started_at, now)
        assert later > now
        now = later
    distinct = {started_at + offset for offset in schedule.offsets} - {started_at + schedule.timeout_s}
    assert visited == len(distinct)


def test_waits_may_be_bounded_without_giving_up_sooner() -> None:
    """What TURN clients do on lossy lines: two seconds apart from the fourth request on, and 39.5 s as ever."""
    bounded = stun.RetransmissionSchedule(rc=18, max_gap_s=2.0)
    assert bounded.offsets[:6] == (0.0, 0.5, 1.5, 3.5, 5.5, 7.5)
    assert bounded.timeout_s == stun.DEFAULT_SCHEDULE.timeout_s == 39.5
    with pytest.raises(ValueError):
        stun.RetransmissionSchedule(max_gap_s=0.1)
