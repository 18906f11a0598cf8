"""The picture of the first page and of the README, out of the gallery's first script.

``python docs/first_picture.py`` writes ``docs/_static/before_after.png``.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt

DOCS = Path(__file__).parent

if __name__ == "__main__":
    plt.show = lambda: None  # the script shows its figure; here it is saved
    runpy.run_path(str(DOCS / "gallery" / "plot_before_after.py"))
    plt.gcf().savefig(DOCS / "_static" / "before_after.png", dpi=110)
