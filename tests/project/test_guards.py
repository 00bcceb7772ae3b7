"""The house rules that no linter knows: who may import whom, how long things may grow, what must not be in the tree."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*(ROOT / "iceagent").rglob("*.py"), *(ROOT / "signal" / "icesignal").rglob("*.py")])
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60

# Imports point downwards only. A room may use itself, what stands here, and everything the rooms named here may use.
ROOMS: dict[str, set[str]] = {
    "iceagent.core.address": set(),
    "iceagent.errors": set(),
    "iceagent.core": {"iceagent.core.address", "iceagent.errors"},
    "iceagent.core.portmap": {"iceagent.core"},
    "iceagent.core.discovery": {"iceagent.core"},
    "iceagent.core.hard_nat": {"iceagent.core"},
    "iceagent.net": {"iceagent.core.portmap", "iceagent.core.discovery"},
    "iceagent.agent": {"iceagent.net", "iceagent.core.hard_nat"},
    "iceagent.link": {"iceagent.agent"},
    "iceagent.session": {"iceagent.link", "icesignal"},
    "iceagent.files": {"iceagent.session"},
    "iceagent.tunnel": {"iceagent.files"},
    "iceagent.servers": {"iceagent.net", "iceagent.core"},
    "iceagent.vnet": {"iceagent.net", "iceagent.core"},
    "iceagent.cli": {"iceagent.tunnel", "iceagent.servers"},
    "icesignal": set(),
}
FACADE = "iceagent"  # the package's own __init__ hands out names from every room; only the command line may ask it
NOT_IN_CORE = {"trio", "socket", "time", "random", "logging", "os", "asyncio"}


def module_name(path: Path) -> str:
    base = ROOT / "signal" if ROOT / "signal" in path.parents else ROOT
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """Give (line, module) for each import anywhere in the file, in functions and under TYPE_CHECKING too."""
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                is_module = f"{module}.{alias.name}" in MODULES
                yield node.lineno, f"{module}.{alias.name}" if is_module else module


MODULES = {module_name(path) for path in SOURCES}


def room_of(module: str) -> str | None:
    """Return the room a module belongs to, the most particular one; None for what is not ours."""
    inside = [room for room in ROOMS if module == room or module.startswith(room + ".")]
    if inside:
        return max(inside, key=len)
    return FACADE if module.partition(".")[0] == "iceagent" else None


def reachable(room: str) -> set[str]:
    rooms = {room}
    for below in ROOMS[room]:
        rooms |= reachable(below)
    return rooms


def violations(path: Path) -> list[str]:
    room = room_of(module_name(path))
    if room in (None, FACADE):
        return []
    allowed = reachable(room) | ({FACADE} if room == "iceagent.cli" else set())
    return [
        f"{path.relative_to(ROOT)}:{line} {room} imports {module}"
        for line, module in imported_names(path)
        if room_of(module) not in (None, *allowed)
    ]


def test_imports_point_downwards():
    """A layer that knows the one above it can be neither used nor tested alone."""
    assert [text for path in SOURCES for text in violations(path)] == []


def test_the_guard_sees_an_upward_import(tmp_path, monkeypatch):
    """A guard that cannot fail guards nothing: absolute, relative, nested and submodule imports are all seen."""
    package = tmp_path / "iceagent" / "core" / "ice"
    package.mkdir(parents=True)
    culprit = package / "culprit.py"
    culprit.write_text(
        "import iceagent.agent\nfrom iceagent import net\nfrom ...link import something\n"
        "def f():\n    from icesignal import something\nfrom iceagent import Something\n"
        "from iceagent.core import address\nfrom .. import stun\nimport trio\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    found = {text.partition(" imports ")[2] for text in violations(culprit)}
    assert found == {"iceagent", "iceagent.agent", "iceagent.link", "iceagent.net", "icesignal"}


# Circles that there may be, by room: how many modules are in them at most, and why.
CIRCLES = {
    "iceagent.servers": 8,  # the TURN service and its sockets: each works on all of the service's state
    "iceagent.vnet": 6,  # hosts and routers are nodes of the network that they belong to
}


def modules_in_circles(imports: dict[str, set[str]]) -> set[str]:
    """Return the modules that import themselves by way of others, type checkers' imports counted."""
    reached = {module: set(below) for module, below in imports.items()}
    for through in imports:  # Warshall's closure
        for module in imports:
            if through in reached[module]:
                reached[module] |= reached[through]
    return {module for module, below in reached.items() if module in below}


def test_modules_import_each_other_in_circles_no_more_than_said():
    """Who changes one file of a circle has to know all of them."""
    imports = {module_name(path): {name for _, name in imported_names(path)} & MODULES for path in SOURCES}
    for module, below in imports.items():
        below.discard(module)
    found: dict[str, list[str]] = {}
    for module in sorted(modules_in_circles(imports)):
        room = next((room for room in CIRCLES if module.startswith(room + ".")), module)
        found.setdefault(room, []).append(module)
    assert {room: modules for room, modules in found.items() if len(modules) > CIRCLES.get(room, 0)} == {}


def test_the_guard_sees_a_circle():
    assert modules_in_circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}, "e": set()}) == {"b", "c"}


def facts_written(tree: ast.Module) -> set[str]:
    """Return which facts of an ICE session a file writes: stores to attributes of what is called facts."""
    stores = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    holders = ((node.attr, node.value) for node in stores)
    return {
        name
        for name, holder in holders
        if (isinstance(holder, ast.Attribute) and holder.attr in ("facts", "_facts"))
        or (isinstance(holder, ast.Name) and holder.id == "facts")
    }


def test_each_fact_of_a_session_is_written_by_one_file():
    """Who wonders how a fact came to be opens one file; parts with facts of their own write them by their methods."""
    writers: dict[str, list[str]] = {}
    for path in sorted((ROOT / "iceagent" / "core" / "ice").rglob("*.py")):
        for name in facts_written(tree_of(path)):
            writers.setdefault(name, []).append(path.name)
    assert len(writers) > 10
    assert {name: files for name, files in writers.items() if len(files) > 1} == {}


def test_the_guard_sees_who_writes_a_fact():
    text = "self._facts.one = session.facts.two = facts.three = 1; facts.health.four += 1; x = facts.five; self.six = 1"
    assert facts_written(ast.parse(text)) == {"one", "two", "three"}


def test_networks_are_interchangeable():
    """`net/api.py` says what networks and sockets can do; who asks for a class shuts out whatever stands before it."""
    asks = re.compile(r"isinstance\([^)]*\bSystem\w+")
    found = [path.name for path in SOURCES if asks.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_core_is_sans_io():
    """Clock, sockets and chance come in as arguments; that is what makes every failure repeatable."""
    found = [
        f"{path.relative_to(ROOT)}:{line} {module}"
        for path in SOURCES
        if module_name(path).startswith("iceagent.core")
        for line, module in imported_names(path)
        if module.partition(".")[0] in NOT_IN_CORE
    ]
    assert found == []


def test_folder_signal_never_shadows_the_standard_library():
    """A package named `signal` lets `import trio` work and kills `trio.run`; a folder without modules is safe."""
    assert list((ROOT / "signal").glob("*.py")) == []
    assert not (ROOT / "tests" / "signal" / "__init__.py").exists()
    inside = [path for path in (ROOT / "signal").rglob("*.py") if path.name.startswith(("test_", "conftest"))]
    assert inside == []
    code = "import signal, sysconfig; print(signal.__file__.startswith(sysconfig.get_path('stdlib')))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "True"


def test_files_stay_short():
    """Every ICE stack has one agent file of thousands of lines; this one will not."""
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n > MAX_FILE_LINES} == {}


def test_functions_stay_short():
    """What does not fit on a screen is not understood."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines"
        for path in SOURCES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_FUNCTION_LINES
    ]
    assert found == []


def tracked_files() -> list[Path]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout, so there is no list of tracked files")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


# Written in pieces, so that this file does not accuse itself.
_REGISTRIES = ("pypi" + ".org", "files.python" + "hosted.org", "registry.npm" + "js.org", "deb." + "debian.org")
_MACHINE_PATHS = r"(?<![\w.~$)}\]:>/-])/(?:work|root)\b"
_TELLTALES = re.compile("|".join([*map(re.escape, _REGISTRIES), _MACHINE_PATHS]))


def test_no_registry_hosts_and_no_machine_paths_in_the_tree():
    """A clone must work anywhere: where packages come from is the user's configuration, and nobody has our folders."""
    found = []
    for path in tracked_files():
        text = path.read_bytes().decode("utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), 1):
            if match := _TELLTALES.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number} {match.group()}")
    assert found == []


@pytest.mark.parametrize(
    ("line", "is_caught"),
    [
        ("cd /" + "work/main", True),
        ('path = "/' + 'root/.config"', True),
        ("HOME=/" + "root", True),
        ("https://" + _REGISTRIES[0] + "/simple", True),
        ("~/work/notes", False),
        ("https://example.org/work/item", False),
    ],
)
def test_the_guard_tells_paths_from_words(line, is_caught):
    """It must catch what it is for without crying wolf at every URL."""
    assert bool(_TELLTALES.search(line)) is is_caught


def traps_of_the_page() -> set[int]:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    return {int(number) for number in re.findall(r"^\| (\d+) \|", page, re.MULTILINE)}


def test_every_trap_is_tested_under_its_number() -> None:
    """A trap without a test that names it is one that somebody will step into again; each is a row of the page."""
    named = re.compile(r"def test_trap_0?(\d+)_\w+\(")
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")]
    found = {int(number) for text in texts for number in named.findall(text)}
    traps = traps_of_the_page()
    assert traps >= set(range(1, 70))
    assert sorted(traps - found) == []
    assert sorted(found - traps) == [], "a test names a trap that docs/security.md does not list"


def mutants() -> list[dict[str, Any]]:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "mutants").glob("*.toml")]
    return [entry for text in texts for entry in tomllib.loads(text)["mutant"]]


def test_every_trap_has_a_mutant() -> None:
    """What takes the defence out, so that `make mutants` can look whether a test notices."""
    assert sorted(traps_of_the_page() - {entry["trap"] for entry in mutants()}) == []


def test_the_page_of_traps_names_each_defence_and_its_tests() -> None:
    """Who reads a row goes to these files: those that the mutants change, and those of the tests that notice."""
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|[^|]*\|([^|]*)\|([^|]*)\|$", page, re.MULTILINE)
    told = {
        int(trap): (set(re.findall("`(.*?)`", files)), set(re.findall("`(.*?)`", tests))) for trap, files, tests in rows
    }
    found: dict[int, tuple[set[str], set[str]]] = {}
    for entry in mutants():
        files, tests = found.setdefault(entry["trap"], (set(), set()))
        files.add(entry["file"])
        tests.add(entry["test"].partition("::")[0])
    wrong = {trap: pair for trap, pair in found.items() if told.get(trap) != pair}
    assert wrong == {}, "these rows of docs/security.md should name these files"
    assert told.keys() == traps_of_the_page()


def test_what_make_test_tries_in_part_is_tried_whole_elsewhere():
    """`make thorough` finds tests by their marks; one without would never meet its other examples again."""
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")}
    asking = {path for path, text in texts.items() if re.search(r"^from amount import .*(amount|spread)", text, re.M)}
    assert asking
    assert [path.name for path in asking if "pytest.mark.thorough" not in texts[path]] == []
    assert re.search("^make thorough$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.M)


def test_pages_can_be_read_in_a_terminal():
    """Lines of at most 120 characters; the rows of a table cannot be broken."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    long = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in pages
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 120 and not line.startswith("|")
    ]
    assert not long, f"break these lines: {long}"


def test_places_named_to_contributors_are_there():
    """`file:name` in CONTRIBUTING.md: a function that was renamed sends nobody astray."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    places = re.findall(r"`((?:iceagent|tests|benchmarks)/[\w./-]+\.py)(?::([\w.]+))?`", page)
    assert len(places) > 50
    generic = {"iceagent/cli/NAME.py"}
    gone = [f"{file}:{name}" for file, name in places if file not in generic and not _has_place(ROOT / file, name)]
    assert gone == []


def _has_place(path: Path, name: str) -> bool:
    if not path.is_file():
        return False
    body = tree_of(path).body
    for part in filter(None, name.split(".")):
        found = [node for node in body if part in _names_of(node)]
        if not found:
            return False
        body = getattr(found[-1], "body", [])
    return True


def _names_of(node: ast.stmt) -> set[str]:
    """Return the names that a statement of a module or a class defines."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}


def test_links_between_pages_lead_somewhere():
    """A page that was renamed, or a heading that was, leaves no dead link."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    dead = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if "://" not in target and not _leads_somewhere(page, target)
    ]
    assert dead == []


def _leads_somewhere(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    there = page.parent / name if name else page
    if not there.exists():
        return False
    headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
    anchors = {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}
    return not anchor or anchor in anchors
