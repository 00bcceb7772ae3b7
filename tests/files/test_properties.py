"""What holds for all bytes and all cuts: frames are what was sent, and hostile bytes raise one error."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from iceagent.files import wire
from iceagent.files.digest import PIECE, FileDigest, digest_of, reader_of
from iceagent.files.errors import TransferFailed
from iceagent.files.incoming import Incoming, finish_folders, make_folders, place_in
from iceagent.files.manifest import Entry, check_all_untrusted, check_path_untrusted, scan
from iceagent.files.outgoing import Outgoing
from iceagent.files.plan import plan_for
from iceagent.files.progress import FileProgress
from iceagent.files.target import Target
from iceagent.files.wire import Frame

NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
CONTENTS = st.binary(max_size=200)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    """Cut bytes into pieces of these sizes, again and again."""
    pieces, at = [], 0
    while at < len(data):
        for size in sizes:
            pieces.append(data[at : at + size])
            at += size
    return [piece for piece in pieces if piece]


@given(
    st.lists(st.tuples(st.sampled_from([Frame.ANSWER, Frame.DATA]), CONTENTS)), st.lists(st.integers(1, 50), min_size=1)
)
def test_frames_come_out_as_they_went_in(sent: list[tuple[Frame, bytes]], sizes: list[int]) -> None:
    """However the link cuts them; DATA may come in pieces, and an empty one is nothing."""
    reader = wire.FrameReader()
    found: list[tuple[Frame, bytes]] = []
    for piece in cut(b"".join(wire.frame(kind, body) for kind, body in sent), sizes):
        found += [(kind, bytes(body)) for kind, body in reader.feed(piece)]
    assert reader.is_between_frames

    def joined(frames: list[tuple[Frame, bytes]]) -> list[bytes]:
        out = [b""]
        for kind, body in frames:
            if kind is Frame.DATA:
                out[-1] += body
            else:
                out += [body, b""]
        return out

    assert joined(found) == joined(sent)


def all_of(root: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in sorted(root.rglob("*"))
    }


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(NAMES, CONTENTS, min_size=1, max_size=5), st.lists(st.integers(1, 300), min_size=1), st.data())
def test_a_folder_arrives_through_any_interruption(
    contents: dict[str, bytes], sizes: list[int], data: st.DataObject
) -> None:
    """Cut anywhere, any number of times: what is there in the end is what was sent, and nothing else."""
    with TemporaryDirectory() as folder:
        here, there = Path(folder) / "here", Path(folder) / "there"
        here.mkdir()
        for name, content in contents.items():
            if name in (".", "..") or len(name.encode()) > 200 or name.endswith(".iceagent-part"):
                continue
            (here / name).write_bytes(content)
        for is_last in (False, False, True):
            receive_once(here, there, sizes, None if is_last else data.draw(st.integers(0, 20)))
        assert all_of(there) == all_of_named(here)


def all_of_named(here: Path) -> dict[str, bytes | None]:
    return {"here": None} | {f"here/{name}": content for name, content in all_of(here).items()}


def receive_once(here: Path, there: Path, sizes: list[int], pieces: int | None) -> None:
    """Let one engine feed the other, until so many pieces have come, or to the end."""
    sources = scan([here]).sources
    entries = [one.entry for one in sources]
    check_all_untrusted(entries, "linux")
    target = Target(str(there))
    plan = plan_for(target, entries)
    make_folders(target, entries, plan)
    outgoing = Outgoing(sources, plan.have, FileProgress())
    incoming = Incoming(entries, plan, place_in(target, plan), FileProgress())
    incoming.replace = True
    sent = bytearray()
    while (batch := outgoing.next_batch()) is not None:
        sent += batch
    outgoing.close()
    for piece in cut(bytes(sent), sizes)[:pieces]:
        assert incoming.feed(piece) == b""
    if pieces is None:
        assert incoming.is_complete
        finish_folders(target, entries, plan, replace=True)
    incoming.close()
    target.close()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(Frame), st.binary(max_size=40)), max_size=8), st.binary(max_size=20))
def test_hostile_frames_raise_one_error_and_write_nothing_outside(
    frames: list[tuple[Frame, bytes]], rest: bytes
) -> None:
    with TemporaryDirectory() as folder:
        there = Path(folder) / "there"
        target = Target(str(there))
        entries = [Entry("a", "file", 3), Entry("b", "folder"), Entry("b/c", "file", 0)]
        plan = plan_for(target, entries)
        make_folders(target, entries, plan)
        incoming = Incoming(entries, plan, place_in(target, plan), FileProgress())
        with suppress(TransferFailed):
            incoming.feed(b"".join(wire.frame(kind, body) for kind, body in frames) + rest)
        incoming.close()
        target.close()
        assert os.listdir(folder) == ["there"]
        assert sum(path.stat().st_size for path in there.rglob("*") if path.is_file()) <= 3


@given(st.binary(max_size=300))
def test_hostile_msgpack_raises_one_error(body: bytes) -> None:
    for kind in (wire.Offer, wire.Answer, list[wire.Have], list[Entry]):
        with suppress(TransferFailed):
            wire.unpacked(body, kind)


@given(st.text(max_size=60))
def test_a_path_is_refused_or_stays_below(path: str) -> None:
    for platform in ("linux", "win32"):
        with suppress(TransferFailed):
            parts = check_path_untrusted(path, platform)
            assert os.path.normpath("/".join(parts)) == path
            assert not {"", ".", ".."} & set(parts)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3 * PIECE + 5), st.integers(0, 3 * PIECE + 5), st.integers(1, 700_000))
def test_the_hash_does_not_depend_on_how_the_bytes_come(size: int, start: int, step: int) -> None:
    """What was there before is read, the rest given in any pieces."""
    content = bytes(range(251)) * (size // 251) + bytes(size % 251)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(content)
        with path.open("rb") as file:
            start = min(start, size)
            digest = FileDigest(start, reader_of(file.fileno()))
            for at in range(start, size, step):
                digest.update(memoryview(content)[at : at + step])
            assert digest.digest() == digest_of(content)
            digest.close()
