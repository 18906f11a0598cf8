"""Sums over all pairs of rows with their gradients, tile by tile in O(n d) memory, for kernel values and logits. A
"sweep" is one pass over all tiles of the pair matrix; "slope" in variable names is the derivative of a tile's
values."""
