"""
Validators against the truth
============================

Which of these models is best on the target? Without its labels, validators guess. Here two dozen models of several
losses and weights are scored by four of them, and by the accuracy that nobody would have. A good validator's points
rise from left to right. Matching the marginals hurts on this toy: the MMD score, which measures just that, prefers
the worst models. The toy and the scores shown were picked among three toys and eleven scores, and the ranks change with
them: on rotated moons the MMD score was ahead of the entropy.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mmda.losses import CORALLoss, InformationMaximisationLoss, MMDLoss
from mmda.validators import entropy_score, information_maximisation_score, matrix_norm_score, mmd_score

torch.manual_seed(0)


def moons(n):
    angle, label = torch.rand(n) * torch.pi, torch.arange(n) % 2
    x = torch.stack([angle.cos(), angle.sin()], 1)
    return torch.where(label[:, None] == 0, x, torch.tensor([1.0, 0.4]) - x) + 0.08 * torch.randn(n, 2), label


source, labels = moons(200)
target, hidden = moons(200)
target = target + torch.tensor([1.0, -0.6])  # the same moons elsewhere


def train(kind, loss, weight, seed):
    torch.manual_seed(seed)
    features, head = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 8)), nn.Linear(8, 2)
    optimiser = torch.optim.Adam([*features.parameters(), *head.parameters()], lr=0.01)
    for step in range(150):
        f, g = features(source), features(target)
        term = loss(head(g)) if kind == "IM" else loss(f, g)
        value = cross_entropy(head(f), labels) + weight * min(1, step / 75) * term
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    with torch.no_grad():
        logits = head(features(target))
        scores = (
            information_maximisation_score(logits),
            matrix_norm_score(logits),
            entropy_score(logits),
            mmd_score(features(source), features(target)),
        )
        return [(logits.argmax(1) == hidden).float().mean().item(), *(s.item() for s in scores)]


ways = {"MMD": MMDLoss(), "CORAL": CORALLoss(match_mean=True), "IM": InformationMaximisationLoss()}
runs = {
    kind: torch.tensor([train(kind, loss, w, seed) for w in (0.0, 0.1, 1.0, 3.0) for seed in (0, 1)])
    for kind, loss in ways.items()
}

# %%
# Spearman's rank correlation with the true accuracy stands above each picture; the ring marks the model that the
# validator would choose.

names = ("information maximisation", "matrix norm", "entropy", "MMD score")
table = torch.cat(list(runs.values()))
figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), layout="constrained", sharey=True)
for k, (ax, name) in enumerate(zip(axes, names), start=1):
    for (kind, rows), colour in zip(runs.items(), ("#3b7dd8", "#e07b39", "#2a9d62")):
        ax.scatter(rows[:, k], rows[:, 0], s=22, color=colour, label=kind)
    ranks = table[:, [0, k]].argsort(0).argsort(0).double()
    rho = torch.corrcoef(ranks.T)[0, 1].item()
    best = table[table[:, k].argmax()]
    ax.scatter(best[k], best[0], s=140, facecolors="none", edgecolors="#808080", linewidth=1.5)
    ax.set_title(f"{name}, rank corr. = {rho:+.2f}", fontsize=9)
    print(f"{name:26} rank correlation {rho:+.2f}, accuracy of its choice {best[0]:.2f} (best {table[:, 0].max():.2f})")
axes[0].set_ylabel("accuracy on the target")
axes[0].legend(fontsize=8, frameon=False)
plt.show()

# %%
# A validator is a measurement with an error of its own. Read two of different kinds, keep source-only among the
# candidates, and distrust the one that resembles the loss it judges.
