"""Sums over all pairs of rows, tile by tile: kernel values and logits, with their gradients, in O(n d) memory.

The contrastive losses are dense formulas (``*_formula.py``). This module registers for each a tiled implementation with
the same value that is faster. In this package a *sweep* is one pass over all
tiles, and *slopes* are the derivatives of the summed function at the entries of a tile.
"""

from mmda._engine import info_nce_sweep, nt_xent_sweep, sigmoid_sweep
from mmda._engine.info_nce_formula import INFO_NCE
from mmda._engine.nt_xent_formula import NT_XENT
from mmda._engine.sigmoid_formula import SIGMOID

INFO_NCE.make, NT_XENT.make, SIGMOID.make = info_nce_sweep.make, nt_xent_sweep.make, sigmoid_sweep.make
