"""
Large batches in little memory
==============================

A squared MMD of n rows a side compares 4 n² pairs. Written with matrices it keeps them for the backward pass; here
the pairs are visited in tiles and nothing of their size is kept. The counts below are exact: every tensor that
autograd saves.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from mmda.kernels import Gaussian
from mmda.losses import InfoNCELoss, mmd_loss
from mmda.objectives import cached_backward


def saved_bytes(function, *inputs):
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = function(*inputs)  # alive while we count, so that no address is used twice
    return sum(kept.values()), value.item()


def dense(x, y):
    def mean_kernel(a, b):
        squared = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()
        return torch.stack([torch.exp(-squared / (2 * 64.0 * s)) for s in (0.25, 0.5, 1, 2, 4)]).mean()

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


def tiled(x, y):
    return mmd_loss(x, y, kernel=Gaussian(8.0))


torch.manual_seed(0)
sizes, counts = (64, 128, 256, 512, 1024), {"dense": [], "mmd_loss": []}
for n in sizes:
    x, y = torch.randn(n, 64, requires_grad=True), torch.randn(n, 64) + 0.1
    (big, a), (small, b) = saved_bytes(dense, x, y), saved_bytes(tiled, x, y)
    counts["dense"].append(big / 1e6)
    counts["mmd_loss"].append(small / 1e6)
    print(f"{n:5} rows: {big / 1e6:8.2f} MB dense, {small / 1e6:6.2f} MB here; values {a:.6f} and {b:.6f}")

figure, ax = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
for (name, values), colour in zip(counts.items(), ("#e07b39", "#3b7dd8")):
    ax.loglog(sizes, values, marker="o", label=name, color=colour)
ax.set_xlabel("rows a side, 64 features")
ax.set_ylabel("kept for backward, MB")
ax.legend(fontsize=8, frameon=False)
plt.show()

# %%
# The encoder's own activations are the larger part in practice. ``cached_backward`` gives the gradient of a
# contrastive loss over all 512 rows while the graph holds 64 of them, exactly:

encoder = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 32))
left, right = torch.randn(512, 64), torch.randn(512, 64)
loss = InfoNCELoss()
loss(encoder(left), encoder(right)).backward()
whole = [p.grad.clone() for p in encoder.parameters()]
encoder.zero_grad()
cached_backward(loss, encoder, left, right, chunk=64)
gaps = [(p.grad - g).norm() / g.norm() for p, g in zip(encoder.parameters(), whole)]
print(f"largest relative difference of a gradient: {max(gaps):.1e}")
