"""What a hostile sender, or somebody with access to the target, can do with a transfer: nothing outside the target."""

from __future__ import annotations

import os
from contextlib import suppress

import msgspec
import pytest
import trio
from fake_link import linked_sessions

from iceagent.errors import LocalIOError
from iceagent.files import plan, wire
from iceagent.files.digest import digest_of
from iceagent.files.errors import TransferFailed, TransferRefused
from iceagent.files.incoming import Incoming, place_in
from iceagent.files.manifest import (
    MAX_DEPTH,
    Entry,
    check_all_untrusted,
    check_path_untrusted,
    scan,
)
from iceagent.files.progress import FileProgress
from iceagent.files.receiver import receive_files
from iceagent.files.sender import ControlFrames
from iceagent.files.target import PartFile, Target, part_name
from iceagent.files.wire import Frame
from iceagent.session.streams import FILES_SERVICE

CONTENT = b"owned"
LONG_S = 10.0  # only what waits for ever takes so long


def frames_of(index: int, content: bytes = CONTENT) -> bytes:
    """Return a whole file, as a sender sends it."""
    data = wire.frame(Frame.DATA, content)
    return wire.begin(index, 0) + data + wire.frame(Frame.END, digest_of(content))


async def offered(into, entries, body=b"", size=None, count=None, **more):
    """Offer entries as a hostile sender may, then send `body`; raise what the receiver raises."""

    async def send(session):
        stream = await session.streams.open_service(FILES_SERVICE)
        total = sum(entry.size for entry in entries) if size is None else size
        await stream.send_all(wire.packed(Frame.OFFER, wire.Offer(wire.VERSION, count or len(entries), total)))
        await stream.send_all(wire.packed(Frame.ENTRIES, entries))
        async for kind, said in ControlFrames(stream):
            if kind is Frame.ANSWER and wire.unpacked(said, wire.Answer).status == "ok":
                await stream.send_all(body)
            elif kind in (Frame.ANSWER, Frame.RESULT):
                break
        await stream.aclose()

    async with linked_sessions() as (joiner, inviter):
        failures = []
        async with trio.open_nursery() as nursery:

            async def sending():
                with suppress(trio.BrokenResourceError):
                    await send(joiner)

            nursery.start_soon(sending)
            try:
                with trio.fail_after(LONG_S):
                    await receive_files(inviter, into, **more)
            except (LocalIOError, TransferFailed, TransferRefused) as error:
                failures.append(error)
            nursery.cancel_scope.cancel()
        if failures:
            raise failures[0]


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def outside(target):
    """Return what is beside the target, where nothing may appear."""
    return sorted(path.name for path in target.parent.iterdir() if path != target)


BAD = [
    "../escaped",
    "/tmp/escaped",
    "a/../../escaped",
    "a/..",
    "..",
    ".",
    "",
    "a//b",
    "a/",
    "./a",
    "nul\0byte",
    "x" * 256,
    "/".join("a" * (MAX_DEPTH + 1)),
    "a.iceagent-part",
]


@pytest.mark.parametrize("path", BAD)
async def test_trap_106_no_path_leads_out_of_the_target(target, path):
    """Names are refused before anything is made, whatever comes after them."""
    with pytest.raises(TransferFailed, match="cannot be received"):
        await offered(target, [Entry("a", "folder"), Entry(path, "file", len(CONTENT))], frames_of(1))
    assert outside(target) == []
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("path", ["CON", "nul.txt", "com1", "a/LPT9.x", "a:b", "c:\\x", "dot.", "space ", "a\\..\\b"])
def test_trap_106_on_windows_no_name_is_a_device_or_another_drive(path):
    with pytest.raises(TransferFailed, match="cannot be received"):
        check_path_untrusted(path, "win32")
    if path in ("CON", "nul.txt", "a:b"):
        check_path_untrusted(path, "linux")


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_trap_106_names_that_are_one_here_are_refused(platform):
    """The second would silently become the first: here the case does not matter, nor how an accent is written."""
    for pair in (("a/X", "a/x"), ("a/\u00e9", "a/e\u0301")):
        entries = [Entry("a", "folder"), *(Entry(path, "file") for path in pair)]
        with pytest.raises(TransferFailed, match="two of this name"):
            check_all_untrusted(entries, platform)
        check_all_untrusted(entries, "linux")
    with pytest.raises(TransferFailed, match="two of this name"):
        check_all_untrusted([Entry("a", "file"), Entry("a", "file")], "linux")


@pytest.mark.parametrize("parent", [[], [Entry("a", "file")], [Entry("a", "link", target="b")]])
def test_trap_107_nothing_is_inside_of_what_is_no_folder_of_the_transfer(parent):
    with pytest.raises(TransferFailed, match="not sent before"):
        check_all_untrusted([*parent, Entry("a/b", "file")])


@pytest.mark.parametrize(
    "to", ["/etc", "..", "../..", "../../x", "b/../../..", "l/..", "", "c:x", "a\\b", "a\0b", "../../top/x"]
)
async def test_trap_107_no_link_that_leads_out_is_made(target, to):
    """`..` behind a name is refused as well: the name may be a link that does not lead as deep as it looks."""
    entries = [Entry("top", "folder"), Entry("top/sub", "folder"), Entry("top/sub/l", "link", target=to)]
    with pytest.raises(TransferFailed, match="cannot be received"):
        await offered(target, [*entries[:1], Entry("top/l", "link", target=to)])
    if to not in ("..",):
        with pytest.raises(TransferFailed, match="cannot be received"):
            await offered(target, entries)
    assert list(target.iterdir()) == []


async def test_trap_107_a_link_in_the_target_is_not_written_through(target):
    """Planted before: a folder of this name is a link out of the target."""
    elsewhere = target.parent / "elsewhere"
    elsewhere.mkdir()
    (target / "a").symlink_to(elsewhere)
    with pytest.raises(LocalIOError, match="nothing is written through links"):
        await offered(target, [Entry("a", "folder"), Entry("a/b", "file", len(CONTENT))], frames_of(1), overwrite=True)
    (target / "f").symlink_to(elsewhere / "f")
    await offered(target, [Entry("f", "file", len(CONTENT))], frames_of(0) + wire.frame(Frame.LAST), overwrite=True)
    assert list(elsewhere.iterdir()) == []
    assert (target / "f").read_bytes() == CONTENT
    assert not (target / "f").is_symlink()


def test_trap_107_a_link_that_is_planted_meanwhile_is_not_written_through(target):
    """Between the look and the writing: folders are opened one in the other, parts never through a link."""
    elsewhere = target.parent / "elsewhere"
    elsewhere.mkdir()
    entry = Entry("a/b", "file", len(CONTENT))
    opened = Target(str(target))
    try:
        (target / "a").symlink_to(elsewhere)
        with pytest.raises(OSError, match=r"[Nn]ot a directory|symbolic links"):
            opened.folder(("a",))
        (target / "a").unlink()
        (target / "a").mkdir()
        folder = opened.folder(("a",))
        victim = elsewhere / "victim"
        victim.write_bytes(b"precious")
        for plant in (os.symlink, os.link):
            plant(victim, target / "a" / part_name(entry))
            with pytest.raises(OSError, match=r"."):
                PartFile(folder, entry, 3)
            PartFile(folder, entry, 0).discard()
    finally:
        opened.close()
    assert victim.read_bytes() == b"precious"


def test_trap_107_a_closed_folder_is_not_the_working_directory(target, monkeypatch):
    monkeypatch.chdir(target)
    (target / "a").mkdir()
    opened = Target(str(target))
    folder = opened.folder(("a",))
    opened.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        folder.open("planted", os.O_WRONLY | os.O_CREAT)
    assert os.listdir(target) == ["a"]


def incoming_of(target, entries):
    opened = Target(str(target))
    found = plan.plan_for(opened, entries)
    return opened, Incoming(entries, found, place_in(opened, found), FileProgress())


@pytest.mark.parametrize(
    "body",
    [
        wire.begin(0, 0) + wire.frame(Frame.DATA, b"toolong"),
        wire.begin(0, 0) + wire.frame(Frame.DATA, b"abc") + wire.frame(Frame.DATA, b"def"),
        wire.begin(0, 0) + wire.frame(Frame.END, digest_of(b"")),
        wire.begin(0, 1),
        wire.begin(1, 0),
        wire.begin(0, 0) + wire.begin(0, 0),
        wire.frame(Frame.DATA, b"x"),
        wire.frame(Frame.END, bytes(32)),
        wire.frame(Frame.LAST),
        frames_of(0) + frames_of(0),
        frames_of(0) + wire.frame(Frame.SKIP, wire.INDEX.pack(0)),
        wire.frame(Frame.SKIP, b"\0"),
        wire.frame(Frame.OFFER, b""),
        b"\x09\0\0\0\0",
        wire.HEADER.pack(Frame.DATA, wire.MAX_DATA + 1),
        wire.HEADER.pack(Frame.SKIP, wire.MAX_CONTROL + 1),
        wire.HEADER.pack(Frame.BEGIN, 11),
    ],
)
def test_trap_108_a_file_gets_what_was_offered_and_no_byte_more(target, body):
    opened, incoming = incoming_of(target, [Entry("file", "file", len(CONTENT))])
    try:
        with pytest.raises(TransferFailed, match="broke the protocol"):
            incoming.feed(body)
    finally:
        incoming.close()
        opened.close()
    assert sum(path.stat().st_size for path in target.iterdir()) <= len(CONTENT)


async def test_trap_108_more_names_than_were_said_are_refused_while_they_come(target, monkeypatch):
    """Who says ten and sends a million would fill the memory."""
    entries = [Entry(str(number), "file") for number in range(100)]
    with pytest.raises(TransferFailed, match="more names"):
        await offered(target, entries, count=10)
    monkeypatch.setattr(wire, "MAX_MANIFEST", 1000)
    with pytest.raises(TransferFailed, match="more names"):
        await offered(target, entries)


@pytest.mark.parametrize("size", [-1, 1 << 63, 10**30])
async def test_trap_108_sizes_that_cannot_be_are_refused(target, size):
    with pytest.raises(TransferFailed, match="broke the protocol"):
        wire.entries_of(msgspec.msgpack.encode([["a", "file", size if size < 1 << 64 else float(size)]]))
    with pytest.raises(TransferFailed, match="do not fit together"):
        await offered(target, [Entry("a", "file", 5)], size=6)


async def test_trap_108_what_does_not_fit_is_refused_before_the_first_byte(target):
    """The sentence has both figures."""
    with pytest.raises(LocalIOError, match=r"no room in .*: 10\d\d TB|no room in .*: \d+.* TB are needed, .* are free"):
        await offered(target, [Entry("a", "file", 1 << 50)])
    assert list(target.iterdir()) == []


async def test_trap_109_control_characters_of_names_are_not_shown(target):
    """They may be in a name, and the file gets it; what is shown of it cannot move a cursor or set a title."""
    seen = []

    async def accept(offer):
        seen.append(offer)
        return False

    evil = "\x1b]0;title\x07\u202etxt"
    (target / evil).write_text("x")
    with pytest.raises(TransferRefused):
        await offered(target, [Entry(evil, "file", len(CONTENT))], accept=accept)
    text = "".join(seen[0].names + seen[0].overwrites)
    assert text.isprintable()
    with pytest.raises(TransferFailed) as failed:
        check_path_untrusted(f"{evil}/..")
    assert str(failed.value).isprintable()
    (target / evil).unlink()
    skip = wire.frame(Frame.SKIP, wire.INDEX.pack(0) + evil.encode())
    opened, incoming = incoming_of(target, [Entry(evil, "file", len(CONTENT))])
    incoming.feed(skip)
    incoming.close()
    opened.close()
    assert incoming.progress.missing[0].isprintable()


async def test_trap_110_what_appears_meanwhile_is_not_overwritten(target):
    """It was not there when the user was asked."""
    opened, incoming = incoming_of(target, [Entry("file", "file", len(CONTENT))])
    try:
        incoming.feed(frames_of(0)[:-10])
        (target / "file").write_bytes(b"precious")
        with pytest.raises(LocalIOError, match="cannot write 'file'"):
            incoming.feed(frames_of(0)[-10:])
    finally:
        incoming.close()
        opened.close()
    assert (target / "file").read_bytes() == b"precious"


async def test_trap_110_what_looks_the_same_and_is_not_is_not_overwritten(target):
    """Same name, size and time, other content: that is only known in the end, and nobody was asked."""
    (target / "file").write_bytes(b"other")
    os.utime(target / "file", ns=(7, 7))
    entry = Entry("file", "file", len(CONTENT), mtime_ns=7)
    body = wire.begin(0, len(CONTENT)) + wire.frame(Frame.END, digest_of(CONTENT))
    with pytest.raises(LocalIOError, match="same size and time, and with other content"):
        await offered(target, [entry], body)
    assert (target / "file").read_bytes() == b"other"
    again = frames_of(0) + wire.frame(Frame.LAST)
    await offered(target, [entry], body + again, overwrite=True)
    assert (target / "file").read_bytes() == CONTENT


async def test_trap_110_no_folder_is_replaced_by_a_file(target):
    (target / "file").mkdir()
    with pytest.raises(LocalIOError, match="is a folder here"):
        await offered(target, [Entry("file", "file", 1)], overwrite=True)


async def test_trap_106_set_user_id_and_its_like_are_dropped(target):
    entry = Entry("file", "file", len(CONTENT), mode=0o7755)
    folder = Entry("folder", "folder", mode=0o7777)
    await offered(target, [entry, folder], frames_of(0) + wire.frame(Frame.LAST))
    for name in ("file", "folder"):
        assert (target / name).stat().st_mode & 0o7000 == 0, name


def test_a_scan_leaves_out_what_would_be_refused_over_there(target):
    """Otherwise one such name would fail all the others."""
    (target / "ok").write_text("x")
    (target / "out").symlink_to("/etc")
    (target / "in").symlink_to("ok")
    (target / "x.iceagent-part").write_text("x")
    os.mkfifo(target / "fifo")
    found = scan([target])
    assert [source.entry.path for source in found.sources] == ["in", "in/ok", "in/in"]
    assert sorted(one.partition(":")[0] for one in found.left_out) == ["in/fifo", "in/out", "in/x.iceagent-part"]
