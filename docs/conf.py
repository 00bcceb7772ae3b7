"""How Sphinx makes pages of docs/: `make docs`. Warnings are errors; every public name has its place under api/."""

from __future__ import annotations

from importlib.metadata import version as version_of
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "iceagent"
author = "the authors of iceagent"
version = release = version_of("iceagent")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib_trio", "myst_parser"]
root_doc = "index"
exclude_patterns: list[str] = []
html_theme = "alabaster"
html_show_sphinx = False

default_role = "code"  # docstrings write names in single backticks, as they are read in the source
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
python_use_unqualified_type_names = True
napoleon_use_ivar = True  # the attributes of a class, in its docstring, are a list and not one entry of the index each
napoleon_custom_sections = [("Source", "params_style"), ("Raises (the calls)", "Raises")]

myst_heading_anchors = 4
myst_links_external_new_tab = False
suppress_warnings = [
    "misc.highlighting_failure",  # code is shortened by "…", which no language knows
    "ref.python",  # an annotation says `Network`, and the virtual network has one, too: then there is no link
]


_COLON = "\ue000"


def _hide_colon(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep napoleon from taking what stands before a colon in the first line of a property for its type."""
    if what in ("property", "attribute", "data") and lines:
        lines[0] = lines[0].replace(":", _COLON)


def _show_colon(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = [line.replace(_COLON, ":") for line in lines]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _hide_colon, priority=400)  # before napoleon's
    app.connect("autodoc-process-docstring", _show_colon, priority=600)
