"""
Swap the alignment: MMD, CORAL, an adversary, CCA
=================================================

One training loop; the alignment is an argument. The last bars need no training loop at all: maps in closed form, of
which CCA asks for something that the others do not have, rows of both domains that belong together.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from mmda.kernels import Energy
from mmda.layers import DomainDiscriminator
from mmda.linear import CCA, CORALMap
from mmda.losses import CORALLoss, DomainAdversarialLoss, MMDLoss
from mmda.plots import plot_rows
from mmda.schedules import dann_ramp

generator = torch.Generator().manual_seed(0)
other = torch.randn(20, 20, generator=generator) / 20**0.5  # what the target's instrument mixes in


def see(x):
    return 1.3 * x + 0.3 * x @ other + torch.linspace(2, -2, 20)


labels, hidden = torch.randint(3, (2, 1500), generator=generator)
source, world = (
    torch.randn(1500, 20, generator=generator)
    + 1.5 * torch.cat([one_hot(k, 3).repeat_interleave(4, 1), torch.zeros(1500, 8)], 1)
    for k in (labels, hidden)
)
target = see(world)


def train(alignment=None, weight=0.0, x=source, y=target):
    torch.manual_seed(0)
    features, head = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 16)), nn.Linear(16, 3)
    modules = nn.ModuleList([features, head] if alignment is None else [features, head, alignment])
    optimiser = torch.optim.Adam(modules.parameters(), lr=1e-3)
    for step in range(300):
        s, t = torch.randint(1500, (2, 128))
        f_source, f_target = features(x[s]), features(y[t])
        loss = cross_entropy(head(f_source), labels[s])
        if alignment is not None:
            loss = loss + weight * dann_ramp(step / 300) * alignment(f_source, f_target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (head(features(y)).argmax(1) == hidden).float().mean().item()


torch.manual_seed(1)
scores = {
    "source only": train(),
    "MMD": train(MMDLoss(estimator="unbiased"), 1.0),
    "energy distance": train(MMDLoss(kernel=Energy()), 1.0),
    "CORAL with means": train(CORALLoss(match_mean=True), 100.0),
    "adversary": train(DomainAdversarialLoss(DomainDiscriminator(16, hidden=[32])), 1.0),
}

# %%
# Closed form. CORAL maps the source's inputs onto the target's mean and covariance, without labels or pairs. CCA gets
# 100 objects that both instruments saw, with no class of any.

coral = CORALMap().fit(source, target)
scores["CORAL map, closed form"] = train(x=coral(source))
cca = CCA(16, ridge=0.1, scale=1.0).fit(source[:100], see(source[:100]))
scores["CCA on 100 pairs"] = train(x=cca.map_x(source), y=cca.map_y(target))

for name, accuracy in scores.items():
    print(f"{name:24} {accuracy:.3f}")
figure, ax = plt.subplots(figsize=(6.4, 3), layout="constrained")
plot_rows({name: (100 * a,) for name, a in scores.items()}, reference=100 * scores["source only"],
          xlabel="accuracy on the target, % (one seed)", ax=ax)  # fmt: skip
plt.show()

# %%
# One seed of one toy ranks nothing. ``examples/swap_alignment.py`` repeats it over seeds, :doc:`/digits` has real
# images with intervals.
