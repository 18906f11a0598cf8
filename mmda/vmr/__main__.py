"""``python -m mmda.vmr``: see :mod:`mmda.vmr.check`."""

from __future__ import annotations

from mmda.vmr.check import main

if __name__ == "__main__":
    raise SystemExit(main())
