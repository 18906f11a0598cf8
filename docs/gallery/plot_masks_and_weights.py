"""
Masks and weights
=================

A mask says which frames exist; a weight says how often a row counts. Neither is a detail: the first picture shows
where the gradient goes, the second what weights do when the classes' shares differ between the domains.
"""

import matplotlib.pyplot as plt
import torch

from mmda.losses import mmd_loss

torch.manual_seed(0)

# %%
# Videos of several lengths, padded with NaN. The loss sees the kept frames only, and the padding gets a gradient of
# exactly zero: nothing has to be cleaned before the call.

lengths = torch.tensor([12, 5, 9, 3, 7])
frames = torch.randn(5, 12, 8)
mask = torch.arange(12) < lengths[:, None]
frames[~mask] = float("nan")
frames.requires_grad_()
loss = mmd_loss(frames, torch.randn(40, 8) + 0.5, source_mask=mask)
loss.backward()
print(f"loss {loss.item():.4f}, gradient of the padding {frames.grad[~mask].abs().sum().item()}")

figure, ax = plt.subplots(figsize=(6.4, 2.4), layout="constrained")
image = ax.imshow(frames.grad.norm(dim=2), cmap="viridis")
ax.set_xlabel("frame")
ax.set_ylabel("video")
ax.set_title("length of the gradient; padding held NaN", fontsize=10)
figure.colorbar(image, ax=ax)
plt.show()

# %%
# Two classes, half and half in the source, nine to one in the target, and no other difference. Unweighted, the
# domains look far apart, and aligning them would move a class over. Weighted by the target's share of each class,
# where one knows or estimates it, there is nothing left to align.


def classes(n, share):
    label = (torch.arange(n) < share * n).long()
    return torch.randn(n, 2) + 3.0 * label[:, None], label


source, labels = classes(300, 0.5)
values = []
shares = [0.1, 0.3, 0.5, 0.7, 0.9]
for share in shares:
    target, _ = classes(300, share)
    weight = torch.tensor([(1 - share) / 0.5, share / 0.5])[labels]
    plain = mmd_loss(source, target, estimator="unbiased").item()
    weighted = mmd_loss(source, target, estimator="unbiased", source_weight=weight).item()
    values.append((plain, weighted))
    print(f"share {share}: squared MMD {plain:+.4f} unweighted, {weighted:+.4f} weighted")

figure, ax = plt.subplots(figsize=(6.4, 2.8), layout="constrained")
for k, name in enumerate(("unweighted", "weighted by class shares")):
    ax.plot(shares, [v[k] for v in values], marker="o", label=name, color=["#e07b39", "#3b7dd8"][k])
ax.axhline(0, color="#808080", linewidth=1)
ax.set_xlabel("share of the second class in the target (source: 0.5)")
ax.set_ylabel("squared MMD")
ax.legend(fontsize=8, frameon=False)
plt.show()
