"""A package whose `__init__` waits until somebody wants something of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from iceagent.link.backends import put_off


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that would import much, with a module that is wanted, and which imports another one."""
    folder = tmp_path / "put_off_library"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .dear import connect\nfrom .wanted import part\n")
    (folder / "dear.py").write_text("connect = 'connected'\n")
    (folder / "wanted.py").write_text("from . import other\npart = other.part\n")
    (folder / "other.py").write_text("part = 'part'\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("put_off_library", *(f"put_off_library.{one.stem}" for one in folder.glob("*.py"))):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "put_off_library"


def test_modules_are_imported_without_the_package(library: str) -> None:
    put_off(library)
    from put_off_library.wanted import part  # type: ignore[import-not-found]

    assert part == "part"
    assert "put_off_library.dear" not in sys.modules


def test_who_asks_the_package_gets_all_of_it(library: str) -> None:
    put_off(library)
    import put_off_library  # type: ignore[import-not-found]

    assert put_off_library.connect == "connected"
    assert put_off_library.part == "part"
    with pytest.raises(AttributeError):
        _ = put_off_library.no_such_name


def test_what_is_imported_already_stays_as_it_is(library: str) -> None:
    import put_off_library

    put_off(library)
    assert sys.modules[library] is put_off_library
    assert vars(put_off_library)["connect"] == "connected"


def test_what_is_not_installed_is_missed_at_its_import() -> None:
    put_off("no_such_library_anywhere")
    assert "no_such_library_anywhere" not in sys.modules


def test_the_quic_library_is_whole_for_others() -> None:
    """Somebody who uses qh3 for HTTP/3 in the same process finds what its documentation says."""
    code = "import iceagent.link as l; l.preload(); import sys; assert 'asyncio' not in sys.modules\n"
    code += "import qh3; assert qh3.connect and qh3.H3Connection; from qh3 import serve; import qh3.asyncio\n"
    subprocess.run([sys.executable, "-c", code], check=True)
