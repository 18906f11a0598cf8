"""
Two domains, before and after
=============================

Three classes seen by two instruments. The source has labels; the target is shifted and stretched and has none. One
more term in the loss, the squared MMD between the features of both, brings the target's classes onto the source's.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from mmda.losses import MMDLoss
from mmda.plots import plot_domains
from mmda.schedules import dann_ramp
from mmda.two_sample import permutation_test


def draw(n, generator, shifted):
    labels = torch.randint(3, (n,), generator=generator)
    x = torch.randn(n, 20, generator=generator)
    x[:, :12] += 1.5 * one_hot(labels, 3).repeat_interleave(4, dim=1)
    return (1.3 * x + torch.linspace(2, -2, 20) if shifted else x), labels


generator = torch.Generator().manual_seed(0)
source, labels = draw(1000, generator, shifted=False)
target, hidden = draw(1000, generator, shifted=True)  # `hidden` only measures

# %%
# The same network twice: on the source's labels alone, and with the domain term, whose weight ramps up while the
# features begin to mean something.


def train(weight):
    torch.manual_seed(0)
    features = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 16))
    head, mmd = nn.Linear(16, 3), MMDLoss(estimator="unbiased")
    optimiser = torch.optim.Adam([*features.parameters(), *head.parameters()], lr=1e-3)
    for step in range(400):
        s, t = torch.randint(1000, (2, 128))
        f_source, f_target = features(source[s]), features(target[t])
        loss = cross_entropy(head(f_source), labels[s])
        if weight:
            loss = loss + weight * dann_ramp(step / 400) * mmd(f_source, f_target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        accuracy = (head(features(target)).argmax(1) == hidden).float().mean().item()
        return features(source), features(target), accuracy


# %%
# Features on their two principal directions, one marker a class. The p-value asks whether the features of 200 rows a
# domain could come from one distribution.

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, (name, weight) in zip(axes, [("source only", 0.0), ("with MMD", 1.0)]):
    f_source, f_target, accuracy = train(weight)
    p = permutation_test(f_source[:200], f_target[:200], permutations=199).p_value
    plot_domains(f_source[:200], f_target[:200], source_labels=labels[:200], target_labels=hidden[:200], ax=ax)
    ax.set_title(f"{name}: {accuracy:.0%} right on the target, p = {p:.3f}", fontsize=10)
    print(f"{name:12} accuracy on the target {accuracy:.3f}, p-value {p:.3f}")
plt.show()
