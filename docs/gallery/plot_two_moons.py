"""
Two moons: what weight, and when it hurts
=========================================

The target's moons are the source's, rotated by 25 degrees. A little alignment helps; much of it makes the two domains
equal and the answers worse, because equal marginals do not ask which moon went where. Look at the accuracy and the
p-value together: the largest p-value is not the best model.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mmda.losses import MMDLoss
from mmda.plots import plot_domains
from mmda.two_sample import permutation_test


def moons(n, degrees):
    angle = torch.rand(n) * torch.pi
    label = torch.arange(n) % 2
    x = torch.stack([angle.cos(), angle.sin()], 1)
    x = torch.where(label[:, None] == 0, x, torch.tensor([1.0, 0.4]) - x) + 0.08 * torch.randn(n, 2)
    a = torch.tensor(degrees * torch.pi / 180)
    rotation = torch.stack([torch.stack([a.cos(), -a.sin()]), torch.stack([a.sin(), a.cos()])])
    return (x - torch.tensor([0.5, 0.2])) @ rotation.T, label


torch.manual_seed(0)
source, labels = moons(200, 0)
target, hidden = moons(200, 25)  # `hidden` only measures


def train(weight):
    torch.manual_seed(1)
    features, head = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 8)), nn.Linear(8, 2)
    mmd, optimiser = MMDLoss(estimator="unbiased"), torch.optim.Adam([*features.parameters(), *head.parameters()], 0.01)
    for step in range(300):
        f_source, f_target = features(source), features(target)
        domain = weight * min(1, step / 150) * mmd(f_source, f_target)  # ramps up over the first half
        loss = cross_entropy(head(f_source), labels) + domain
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return features, head


# %%
# The lines are where the classifier changes its mind, over the inputs of both domains.

weights = (0.0, 0.3, 10.0)
figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", sharex=True, sharey=True)
x, y = torch.meshgrid(torch.linspace(-2, 2, 80), torch.linspace(-1.5, 1.5, 80), indexing="xy")
for ax, weight in zip(axes, weights):
    features, head = train(weight)
    with torch.no_grad():
        accuracy = (head(features(target)).argmax(1) == hidden).float().mean().item()
        p = permutation_test(features(source), features(target), permutations=199).p_value
        logits = head(features(torch.stack([x.flatten(), y.flatten()], 1)))
    for rows, truth, colour in ((source, labels, "#3b7dd8"), (target, hidden, "#e07b39")):
        for k, marker in enumerate("os"):
            ax.scatter(*rows[truth == k].T, s=10, color=colour, marker=marker, alpha=0.7, linewidth=0)
    ax.contour(x, y, (logits[:, 1] - logits[:, 0]).reshape(x.shape), levels=[0], colors="#808080")
    ax.set_title(f"weight {weight:g}: {accuracy:.0%} on the target, p = {p:.3f}", fontsize=10)
    print(f"weight {weight:4g}: accuracy on the target {accuracy:.3f}, p-value of the features {p:.3f}")
plt.show()

# %%
# The inputs' own map, for comparison: rotated, and far apart for a test.

figure, ax = plt.subplots(figsize=(4.4, 3.6), layout="constrained")
plot_domains(source, target, source_labels=labels, target_labels=hidden, ax=ax)
p = permutation_test(source, target, permutations=199).p_value
ax.set_title(f"inputs, p = {p:.3f}", fontsize=10)
plt.show()
