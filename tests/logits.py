"""The contrastive losses' sweeps, by kind of loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmda._engine.info_nce_formula import INFO_NCE
from mmda._engine.logit_pairs import Contrast, Pairs
from mmda._engine.logit_sweep import contrastive as run
from mmda._engine.nt_xent_formula import NT_XENT
from mmda._engine.sigmoid_formula import SIGMOID

SWEEPS = {"info_nce": INFO_NCE, "symmetric": INFO_NCE, "nt_xent": NT_XENT, "sigmoid": SIGMOID}


def contrastive(
    kind: str,
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    unit: bool = False,
    several: str = "mean",
    block_size: int | None = None,
    **known: Any,
) -> Tensor:
    how = Contrast(kind, several, unit, block=block_size or 0)
    return run(SWEEPS[kind], Pairs(a, b, bias=bias, **known), how, temperature)
