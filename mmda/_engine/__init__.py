"""Sums over all pairs of rows, a tile at a time: kernel values and logits, with their gradients, in memory O(n d).

The contrastive losses are dense formulas (``*_formula.py``). Here each gets the pass that computes the same numbers
faster, and the passes use the compiled loops in addition to PyTorch's operations.
"""

from mmda._engine import info_nce_sweep, logit_loops, native_logits, nt_xent_sweep, sigmoid_sweep
from mmda._engine.info_nce_formula import INFO_NCE
from mmda._engine.nt_xent_formula import NT_XENT
from mmda._engine.sigmoid_formula import SIGMOID

INFO_NCE.make, NT_XENT.make, SIGMOID.make = info_nce_sweep.make, nt_xent_sweep.make, sigmoid_sweep.make
logit_loops.faster.append(native_logits.compiled_loops)
