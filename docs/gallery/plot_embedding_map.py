"""
Embedding maps: what each loss does to the features
===================================================

The same network and data under five losses, its features drawn on the two principal directions. Colours are domains,
markers classes. The target has other class shares than the source, so every loss that makes the two clouds equal has
to move rows of one class onto another, and accuracy falls below that of the source alone. Local MMD aligns class by
class and loses less; the nuclear norm looks at predictions only, and gains. A pretty overlap is no proof of anything.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from mmda.layers import DomainDiscriminator
from mmda.losses import BatchNuclearNormLoss, CORALLoss, DomainAdversarialLoss, LocalMMDLoss, MMDLoss
from mmda.plots import plot_domains
from mmda.schedules import dann_ramp

generator = torch.Generator().manual_seed(0)


def draw(shares, shifted):
    labels = torch.multinomial(torch.tensor(shares), 600, replacement=True, generator=generator)
    x = torch.randn(600, 20, generator=generator)
    x[:, :12] += 1.5 * one_hot(labels, 3).repeat_interleave(4, dim=1)
    return (1.2 * x + torch.linspace(1.5, -1.5, 20) if shifted else x), labels


source, labels = draw([1 / 3, 1 / 3, 1 / 3], shifted=False)
target, hidden = draw([0.6, 0.3, 0.1], shifted=True)


def term(name, f_source, f_target, y, target_logits, loss):
    if name == "local MMD":
        return loss(f_source, f_target, source_labels=y, target_probabilities=target_logits.softmax(1))
    return loss(target_logits) if name == "nuclear norm" else loss(f_source, f_target)


def train(name, loss, weight):
    torch.manual_seed(0)
    features, head = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 16)), nn.Linear(16, 3)
    optimiser = torch.optim.Adam(nn.ModuleList([features, head, *([loss] if loss else [])]).parameters(), lr=1e-3)
    for step in range(300):
        s, t = torch.randint(600, (2, 128))
        f_source, f_target = features(source[s]), features(target[t])
        value = cross_entropy(head(f_source), labels[s])
        if loss:
            value = value + weight * dann_ramp(step / 300) * term(
                name, f_source, f_target, labels[s], head(f_target), loss
            )
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    with torch.no_grad():
        return features(source), features(target), (head(features(target)).argmax(1) == hidden).float().mean().item()


torch.manual_seed(1)
ways = {
    "source only": (None, 0.0),
    "MMD": (MMDLoss(estimator="unbiased"), 1.0),
    "CORAL with means": (CORALLoss(match_mean=True), 100.0),
    "adversary": (DomainAdversarialLoss(DomainDiscriminator(16, hidden=[32])), 1.0),
    "local MMD": (LocalMMDLoss(classes=3), 1.0),
    "nuclear norm": (BatchNuclearNormLoss(), 1.0),
}
figure, axes = plt.subplots(2, 3, figsize=(11, 7), layout="constrained")
for ax, (name, (loss, weight)) in zip(axes.flat, ways.items()):
    f_source, f_target, accuracy = train(name, loss, weight)
    plot_domains(f_source[:200], f_target[:200], source_labels=labels[:200], target_labels=hidden[:200], ax=ax)
    ax.set_title(f"{name}: {accuracy:.0%} on the target", fontsize=10)
    print(f"{name:17} {accuracy:.3f}")
plt.show()
