"""``python -m mmda``: the command ``mmda``."""

from __future__ import annotations

from mmda.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
