"""
Do the p-values mean what they say?
===================================

Where both samples come from one distribution, a test at level 0.05 may reject one time in twenty. Here are 200
permutation tests under the null, and 200 under a small shift. Under the null the curve has to stay in the band.
"""

import matplotlib.pyplot as plt
import torch

from mmda.plots import plot_p_values
from mmda.two_sample import permutation_test

generator = torch.Generator().manual_seed(0)


def repeat(shift):
    values = []
    for _ in range(200):
        x, y = torch.randn(30, 5, generator=generator), torch.randn(25, 5, generator=generator) + shift
        values.append(permutation_test(x, y, permutations=99, generator=generator).p_value)
    return values


figure, axes = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained")
for ax, (name, shift) in zip(axes, [("no shift", 0.0), ("shift of 0.3 in every feature", 0.3)]):
    values = repeat(shift)
    plot_p_values(values, ax=ax)
    ax.set_title(f"{name}: {sum(p <= 0.05 for p in values) / 200:.0%} rejected at 0.05", fontsize=10)
plt.show()
