"""
Is the adversary healthy?
=========================

A domain adversary (DANN) has two players, and its loss alone does not tell who wins. Watch three numbers: the
discriminator's accuracy, its loss beside log 2 (what guessing gives), and the accuracy on the source.

* Healthy: its accuracy rises first and then gives way as the features align, while the source's accuracy stays.
* Saturated: its accuracy stays near one and its loss near zero. Where it is sure its gradient is small, and the
  features learn nothing from it. Use a smaller discriminator, a lower rate for it, or a higher strength.
* Too strong: the curves jump, and the source's accuracy falls. The features lose what they knew to please one player.
  Lower the strength, or ramp it up later.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from mmda.layers import DomainDiscriminator
from mmda.losses import DomainAdversarialLoss
from mmda.plots import plot_training
from mmda.schedules import dann_ramp

generator = torch.Generator().manual_seed(0)


def draw(n, shifted):
    labels = torch.randint(3, (n,), generator=generator)
    x = torch.randn(n, 20, generator=generator)
    x[:, :12] += 1.5 * one_hot(labels, 3).repeat_interleave(4, dim=1)
    return (1.3 * x + torch.linspace(2, -2, 20) if shifted else x), labels


source, labels = draw(1000, shifted=False)
target, hidden = draw(1000, shifted=True)


def train(strength, ramp=True):
    torch.manual_seed(0)
    features, head = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 16)), nn.Linear(16, 3)
    dann = DomainAdversarialLoss(DomainDiscriminator(16, hidden=[32]))
    optimiser = torch.optim.Adam(nn.ModuleList([features, head, dann]).parameters(), lr=2e-3)
    curves = {"discriminator right": [], "source right": [], "target right": [], "its loss": []}
    for step in range(300):
        dann.set_strength(strength * (dann_ramp(step / 300) if ramp else 1.0))
        s, t = torch.randint(1000, (2, 128))
        f_source, f_target = features(source[s]), features(target[t])
        domain = dann(f_source, f_target)
        loss = cross_entropy(head(f_source), labels[s]) + domain
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        with torch.no_grad():  # logits above zero say "target"
            guesses = torch.cat([dann.discriminator(f_source) < 0, dann.discriminator(f_target) > 0])
            curves["discriminator right"].append(guesses.float().mean().item())
            curves["source right"].append((head(f_source).argmax(1) == labels[s]).float().mean().item())
            curves["target right"].append((head(f_target).argmax(1) == hidden[t]).float().mean().item())
            curves["its loss"].append(domain.item())
    return curves


runs = {
    "no reversal": train(0.0),
    "strength 1, ramped": train(1.0),
    "strength 30 from the start": train(30.0, ramp=False),
}

figure, axes = plt.subplots(1, 3, figsize=(11, 3.6), layout="constrained", sharey=True)
for ax, (name, curves) in zip(axes, runs.items()):
    smooth = {k: torch.tensor(v).unfold(0, 10, 10).mean(1).tolist() for k, v in curves.items()}
    plot_training(smooth, steps=range(5, 300, 10), logarithmic=False, ylabel="share, or nats", ax=ax)
    ax.get_legend().remove()
    ax.axhline(math.log(2), color="#808080", linewidth=1, linestyle=":")
    ax.set_ylim(0, 1.5)
    ax.set_title(name, fontsize=10)
    last = ", ".join(f"{k} {v[-1]:.2f}" for k, v in smooth.items())
    print(f"{name}: {last}")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9, frameon=False)
plt.show()
