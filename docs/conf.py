"""Sphinx configuration: API pages from the docstrings, every code block of the guide executed."""

from __future__ import annotations

import importlib
import shutil
import sys
from pathlib import Path

import mathjax  # MathJax's files, so that formulas need no network
import torch
from sphinx.application import Sphinx

from mmda import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
from method_index import also_called

project = "torch-mmda"
author = "the torch-mmda developers"
copyright = f"2026, {author}"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "loss_index",
    "method_index",
]
exclude_patterns = ["_build", "gallery"]  # the gallery as it is built lies in auto_gallery
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"torch-mmda {release}"
html_show_sourcelink = False
html_static_path = ["_static"]
mathjax_path = "mathjax/tex-chtml.js"
copybutton_exclude = ".linenos, .gp, .go"
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

# Every script of the gallery is executed where it has changed; one that fails, fails the build.
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "min_reported_time": 1e9,
    "write_computation_times": False,
    "show_signature": False,
    "download_all_examples": False,
    "remove_config_comments": True,
    "backreferences_dir": "auto_gallery/of",
    "doc_module": ("mmda",),
    "reference_url": {"mmda": None},
    "thumbnail_size": (400, 240),
}

# Examples in docstrings run under pytest (--doctest-modules); here the code blocks of the pages run.
doctest_test_doctest_blocks = ""
doctest_global_setup = "import torch\n\n_ = torch.manual_seed(0)"


# One page a symbol: a function and the module that holds its options share one.
autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False


def _is_module(item: object) -> bool:
    return isinstance(item, type) and issubclass(item, torch.nn.Module)


def _modules_of_functions() -> dict[str, str]:
    """``mmda.losses.mmd_loss`` -> ``MMDLoss``, for every function with a module of the same name."""
    found = {}
    for name in ("mmda.losses", "mmda.layers"):
        module = importlib.import_module(name)
        exported = module.__all__
        classes = {cls.lower(): cls for cls in exported if _is_module(getattr(module, cls))}
        for function in exported:
            if function[0].islower() and function.replace("_", "") in classes:
                found[f"{name}.{function}"] = classes[function.replace("_", "")]
    return found


autosummary_context = {
    "modules_of": _modules_of_functions(),
    "also_called": also_called(),
    "protocols": ("Discrepancy", "PairLoss", "Kernel"),
}


def _copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """MathJax and its fonts, from the package that carries them, into the built site."""
    if error is None and app.builder.format == "html":
        files = Path(mathjax.__file__).parent / "static" / "mathjax" / "es5"
        place = Path(app.outdir) / "_static" / "mathjax"
        fonts = Path("output", "chtml", "fonts", "woff-v2")
        shutil.copytree(files / fonts, place / fonts, dirs_exist_ok=True)
        shutil.copy(files / "tex-chtml.js", place)


def _skip_tuple_fields(app: Sphinx, what: str, name: str, member: object, skip: bool, options: object) -> bool | None:
    """The fields of a named tuple are in its own docstring; "Alias for field number 0" says nothing more."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> None:
    app.connect("autodoc-skip-member", _skip_tuple_fields)
    app.connect("build-finished", _copy_mathjax)
