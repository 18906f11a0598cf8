"""Sums over all pairs of rows, a tile at a time: kernel values and logits, with their gradients, in memory O(n d)."""
