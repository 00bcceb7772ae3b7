"""Files and folders between two sessions: what arrives, what is gone on with, what is refused."""

from __future__ import annotations

import os
import random

import pytest
import trio
from fake_link import linked_sessions

from iceagent.errors import LocalIOError
from iceagent.files.errors import TransferFailed, TransferRefused
from iceagent.files.incoming import Incoming
from iceagent.files.outgoing import Outgoing
from iceagent.files.receiver import receive_files
from iceagent.files.sender import Transferred, send_files
from iceagent.files.target import Target


async def transfer(paths, into, **more) -> tuple[Transferred, Transferred]:
    """Send from one session to the other; the results of both."""
    results: dict[str, Transferred] = {}

    async def send(session):
        results["sent"] = await send_files(session, paths)

    async def receive(session):
        results["received"] = await receive_files(session, into, **more)

    async with linked_sessions() as (joiner, inviter), trio.open_nursery() as nursery:
        nursery.start_soon(send, joiner)
        nursery.start_soon(receive, inviter)
    return results["sent"], results["received"]


def fill(path, size, seed=1):
    path.write_bytes(random.Random(seed).randbytes(size))
    return path


def tree(folder):
    """Return all below a folder: by path, the content, or where a link leads, or None."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


async def test_a_folder_arrives_as_it_is(here, there):
    """Names, contents, empty folders, links, permissions and times."""
    album = here / "album"
    (album / "deep" / "deeper").mkdir(parents=True)
    (album / "empty").mkdir()
    fill(album / "big", 3_000_001)
    fill(album / "deep" / "small", 10)
    (album / "nothing").write_bytes(b"")
    (album / "ünï ∂.txt").write_text("x")
    (album / "deep" / "link").symlink_to("../big")
    os.chmod(album / "big", 0o640)
    os.chmod(album / "deep" / "small", 0o444)
    os.utime(album / "big", ns=(1, 1_234_567_890_123_456_789))
    os.chmod(album / "empty", 0o500)
    os.utime(album / "deep", ns=(1, 987_654_321_000_000_000))
    sent, received = await transfer([album], there)
    assert tree(there / "album") == tree(album)
    assert sent == received == Transferred(4, 3_000_012, 3_000_012)
    for name in ("big", "deep/small", "empty", "deep"):
        ours, theirs = os.stat(album / name), os.stat(there / "album" / name)
        assert (ours.st_mode, ours.st_mtime_ns) == (theirs.st_mode, theirs.st_mtime_ns), name


async def test_many_files_and_one_more(here, there):
    for number in range(700):
        fill(here / f"{number}", number, number)
    more = fill(here.parent / "more", 200_000)
    _, received = await transfer([here, more], there)
    assert tree(there / "here") == tree(here)
    assert (there / "more").read_bytes() == more.read_bytes()
    assert received.files == 701


async def test_what_is_there_is_not_sent_again(here, there):
    """The second time only the hashes are compared."""
    fill(here / "a", 1_500_000)
    fill(here / "b", 100)
    await transfer([here], there)
    sent, received = await transfer([here], there)
    assert sent.moved == received.moved == 0
    assert received.files == 2


class Killed(Exception):
    """What nobody foresees: the receiver ends without a word."""


async def interrupted(paths, into, after):
    """Send until `after` bytes were written, then let the receiver end."""
    feed = Incoming.feed

    def feed_until(self, data):
        answers = feed(self, data)
        if self.progress.bytes_done >= after:
            raise Killed
        return answers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Incoming, "feed", feed_until)
        with pytest.raises(BaseExceptionGroup) as ended:
            await transfer(paths, into)
    assert ended.group_contains(Killed)


@pytest.mark.parametrize("after", [1, 70_000, 1_100_000, 4_000_000])
async def test_an_interruption_is_gone_on_with_at_the_byte(here, there, after):
    file = fill(here / "file", 8_000_000)
    await interrupted([file], there, after)
    assert not (there / "file").exists()
    (part,) = there.iterdir()
    left = part.stat().st_size
    assert after <= left < 8_000_000
    _, received = await transfer([file], there)
    assert (there / "file").read_bytes() == file.read_bytes()
    assert received.moved == 8_000_000 - left
    assert [path.name for path in there.iterdir()] == ["file"]


async def test_a_part_that_is_not_what_it_was_is_not_trusted(here, there):
    """Whatever is in it: the hash of all of the file decides, and the file is sent anew."""
    file = fill(here / "file", 8_000_000)
    await interrupted([file], there, 2_000_000)
    (part,) = there.iterdir()
    with part.open("r+b") as opened:
        opened.seek(1_000_000)
        opened.write(b"something else")
    _, received = await transfer([file], there)
    assert (there / "file").read_bytes() == file.read_bytes()
    assert received.size == 8_000_000


async def test_what_another_version_has_left_is_taken_away(here, there):
    file = fill(here / "file", 8_000_000)
    await interrupted([file], there, 2_000_000)
    fill(file, 3_000_000, seed=2)
    _, received = await transfer([file], there)
    assert received.moved == 3_000_000
    assert tree(there) == tree(here)


async def test_a_file_that_changes_while_it_is_sent_is_left_out_and_told(here, there, monkeypatch):
    file = fill(here / "file", 3_000_000)
    fill(here / "other", 10)
    more = Outgoing._more

    def changing(self):
        os.utime(file)
        return more(self)

    monkeypatch.setattr(Outgoing, "_more", changing)
    sent, received = await transfer([here], there)
    assert tree(there / "here") == {"other": (here / "other").read_bytes()}
    assert sent.missing == received.missing == ("here/file: it has changed since it was offered",)


async def test_trap_110_nothing_is_overwritten_without_consent(here, there):
    fill(here / "file", 100)
    (there / "file").write_text("precious")
    with pytest.raises(BaseExceptionGroup) as refused:
        await transfer([here / "file"], there)
    assert refused.group_contains(TransferRefused)
    assert (there / "file").read_text() == "precious"
    await transfer([here / "file"], there, overwrite=True)
    assert tree(there) == tree(here)


async def test_who_does_not_want_it_says_so(here, there):
    fill(here / "file", 100)

    async def accept(offer):
        assert (offer.files, offer.size, offer.names) == (1, 100, ("file",))
        return False

    with pytest.raises(BaseExceptionGroup) as refused:
        await transfer([here / "file"], there, accept=accept)
    assert refused.group_contains(TransferRefused, match="the other side does not accept the files: its user said no")
    assert tree(there) == {}


async def test_who_has_no_room_tells_the_other_side(here, there, monkeypatch):
    """Both sides get the figures."""
    fill(here / "file", 100_000)
    monkeypatch.setattr(Target, "free_bytes", lambda _: 50_000)
    with pytest.raises(BaseExceptionGroup) as failed:
        await transfer([here / "file"], there)
    figures = r"104 kB are needed, 50\.0 kB are free"
    assert failed.group_contains(LocalIOError, match=figures)
    assert failed.group_contains(TransferFailed, match=f"cannot receive: there is no room in .*{figures}")


async def test_two_senders_are_told(here):
    file = fill(here / "file", 100)

    async def run():
        async with linked_sessions() as (joiner, inviter), trio.open_nursery() as nursery:
            nursery.start_soon(send_files, joiner, [file])
            nursery.start_soon(send_files, inviter, [file])

    with pytest.raises(BaseExceptionGroup) as failed:
        await run()
    assert failed.group_contains(TransferFailed, match="sends, too")
