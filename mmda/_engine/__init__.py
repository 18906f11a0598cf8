"""Sums over all pairs of rows with their gradients, tile by tile in O(n d) memory, for kernel values and logits.

A "sweep" is one pass over all tiles of the pair matrix; "slope" in variable names is the derivative of a tile's values.
This file registers the compiled loops, which sweeps prefer to PyTorch operations.
"""

from mmda._engine import logit_loops, native_logits

logit_loops.faster.append(native_logits.compiled_loops)
