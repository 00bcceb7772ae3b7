"""Which meetings of its owner a relay remembers."""

from icesignal.access import OwnersMeetings


def test_a_meeting_the_owner_comes_to_again_is_among_the_latest():
    meetings = OwnersMeetings()
    meetings.note(b"kept")
    for number in range(OwnersMeetings.MOST - 1):
        meetings.note(b"%d" % number)
    meetings.note(b"kept")
    meetings.note(b"another")
    assert b"kept" in meetings
    assert b"0" not in meetings
