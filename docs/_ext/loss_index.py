"""``.. loss-index::`` : every loss on one page, a line and a formula each, taken from the docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from textwrap import dedent, indent

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def first_formula(docstring: str) -> str:
    """The first displayed formula of a docstring, without its indentation; empty where there is none."""
    found = re.search(r"^\.\. math::[ ]*(.*)\n((?:[ ]+.*\n|\n)*)", docstring + "\n", re.MULTILINE)
    if found is None:
        return ""
    lines = [line for line in dedent(found.group(2)).splitlines() if not re.match(r":[\w-]+:", line)]
    return "\n".join([found.group(1), *lines]).strip()


def first_line(docstring: str) -> str:
    return docstring.split("\n\n", maxsplit=1)[0].replace("\n", " ")


class LossIndex(SphinxDirective):
    """A section a loss: link, module, one line, formula."""

    has_content = False

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module("mmda.losses")
        classes = {name.lower(): name for name in module.__all__ if name[0].isupper()}
        text = []
        for name in sorted(n for n in module.__all__ if n.endswith("_loss")):
            docstring = inspect.getdoc(getattr(module, name)) or ""
            cls = classes.get(name.replace("_", ""))
            also = f" · :class:`~mmda.losses.{cls}`" if cls else ""
            text += [f":func:`~mmda.losses.{name}`{also}", "", indent(first_line(docstring), "   "), ""]
            formula = first_formula(docstring)
            if formula:
                text += [indent(f".. math::\n\n{indent(formula, '   ')}", "   "), ""]
        return self.parse_text_to_nodes("\n".join(text))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("loss-index", LossIndex)
    return {"parallel_read_safe": True}
