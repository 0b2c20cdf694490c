"""Sphinx reads the pages from MyST and the reference from docstrings; it fetches nothing from anywhere."""

from __future__ import annotations

import re
from importlib.metadata import version as installed_version

from docutils import nodes  # type: ignore[import-untyped]  # docutils ships no types
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

project = "opdispatch"
author = "The opdispatch contributors"
copyright = "The opdispatch contributors"
version = release = installed_version("opdispatch")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"opdispatch {version}"
html_show_sphinx = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_preserve_defaults = True

nitpicky = True
# What is not ours has no page here.
nitpick_ignore_regex = [
    (r"py:.*", r"(attrs|collections|contextlib|datetime|enum|typing|uuid|types|pathlib)\..*"),
]
nitpick_ignore_regex += [
    # Half of a subscripted alias: the parser of default values splits it at its comma.
    ("py:class", r"tuple\[.*"),
    # A private class whose public face is the port Held.
    ("py:class", r"opdispatch_adapters\.memory\._HeldRow"),
]


def _resolve_alias(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.TextElement
) -> nodes.reference | None:
    """Find ids and unions, which annotations name as classes, where they are documented: as data."""
    if node.get("reftype") != "class" or not re.match(r"opdispatch\b", node.get("reftarget", "")):
        return None
    python = env.domains.python_domain
    found: nodes.reference | None = python.resolve_xref(
        env, node["refdoc"], app.builder, "data", node["reftarget"], node, text
    )
    return found


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", _resolve_alias)
