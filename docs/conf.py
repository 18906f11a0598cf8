"""Sphinx configuration: API pages from the docstrings, every code block of the guide executed."""

from __future__ import annotations

from sphinx.application import Sphinx

from mmda import __version__

project = "torch-mmda"
author = "the torch-mmda developers"
copyright = f"2026, {author}"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"torch-mmda {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
toc_object_entries_show_parents = "hide"

# One parameter a line where a signature is long; types stay in the signature, where the code has them.
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "exclude-members": "extra_repr, count, index"}
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autoclass_content = "class"
add_module_names = False

napoleon_google_docstring = True
napoleon_numpy_docstring = False
# As free text: a colon in a Returns section separates no type, types live in the signature.
napoleon_custom_sections = ["Shape", "Returns"]
napoleon_use_ivar = True

# Examples in docstrings run under pytest (--doctest-modules); here the code blocks of the pages run.
doctest_test_doctest_blocks = ""
doctest_global_setup = "import torch\n\n_ = torch.manual_seed(0)"


def _skip_tuple_fields(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """The fields of a named tuple are in its own docstring; "Alias for field number 0" says nothing more."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-skip-member", _skip_tuple_fields)
