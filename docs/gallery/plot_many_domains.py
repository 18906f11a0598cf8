"""
More than two domains
=====================

Four cameras, one network. :class:`~mmda.losses.MultiDomainLoss` lifts any loss between two domains to K of them: all
pairs, each against the rest, or each against the mean of all.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from mmda.losses import MMDLoss, MultiDomainLoss

K, N = 4, 300
generator = torch.Generator().manual_seed(0)
labels = torch.randint(3, (K, N), generator=generator)
x = torch.randn(K, N, 20, generator=generator)
x[:, :, :12] += 1.5 * one_hot(labels, 3).repeat_interleave(4, dim=2)
x = x * torch.tensor([1.0, 1.1, 1.3, 0.8])[:, None, None] + torch.randn(K, 1, 20, generator=generator)
domain = torch.arange(K)[:, None].expand(K, N)


def train(align, weight):
    torch.manual_seed(0)
    features, head = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 16)), nn.Linear(16, 3)
    optimiser = torch.optim.Adam([*features.parameters(), *head.parameters()], lr=4e-3)
    for _ in range(100):
        rows = torch.randint(N, (48,))
        f = features(x[:, rows])
        loss = cross_entropy(head(f[0]), labels[0, rows])  # only the first domain has labels
        if weight:
            loss = loss + weight * align(f.flatten(0, 1), domain[:, rows].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return features(x), (head(features(x)).argmax(2) == labels).float().mean(1)


# %%
# Distances between all pairs of domains before and after; the diagonal is zero by construction of this picture.

mmd = MMDLoss(estimator="unbiased")
schemes = ("pairwise", "one_vs_rest", "to_mean")
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained")
for ax, scheme in zip(axes, (None, *schemes)):
    align = MultiDomainLoss(mmd, domains=K, scheme=scheme or "pairwise")
    f, accuracy = train(align, 1.0 if scheme else 0.0)
    gaps = torch.tensor([[mmd(a, b) if i != j else 0.0 for j, b in enumerate(f)] for i, a in enumerate(f)])
    image = ax.imshow(gaps, vmin=0, vmax=0.2, cmap="viridis")
    ax.set_xticks(range(K))
    ax.set_yticks(range(K))
    ax.set_title(f"{scheme or 'no alignment'}: {accuracy[1:].mean():.0%}", fontsize=10)
    print(f"{scheme or 'no alignment':13} accuracy by domain {[round(a, 2) for a in accuracy.tolist()]}")
figure.colorbar(image, ax=axes, label="squared MMD between domains", shrink=0.8)
plt.show()
