"""
Domain-specific batch normalisation from a trained network
==========================================================

A network with batch normalisation carries its training domain in its running statistics. Two ways to change them:
estimate them anew on the target's inputs, with no training at all (``adapt_batch_norm``), or give each domain its own
from now on (``DomainSpecificModel``) and go on training.
"""

import copy

import matplotlib.pyplot as plt
import torch
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from mmda.layers import DomainSpecificModel, adapt_batch_norm
from mmda.plots import plot_rows

generator = torch.Generator().manual_seed(0)
SCALE, OFFSET = torch.linspace(0.5, 2.0, 20), torch.linspace(2, -2, 20)


def draw(n, shifted):
    labels = torch.randint(3, (n,), generator=generator)
    x = torch.randn(n, 20, generator=generator)
    x[:, :12] += 1.5 * one_hot(labels, 3).repeat_interleave(4, dim=1)
    return (SCALE * x + OFFSET if shifted else x), labels


source, labels = draw(1500, shifted=False)
target, hidden = draw(1500, shifted=True)

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 3))
optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
for _ in range(300):
    s = torch.randint(1500, (128,))
    optimiser.zero_grad()
    cross_entropy(net(source[s]), labels[s]).backward()
    optimiser.step()
net.eval()


def right(predict):
    with torch.no_grad():
        return 100 * (predict(target).argmax(1) == hidden).float().mean().item()


scores = {"source only": right(net)}

# %%
# New statistics, from the target's inputs alone.

adapted = copy.deepcopy(net)
layers = adapt_batch_norm(adapted, target.split(250))
scores["adapt_batch_norm"] = right(adapted)
print(f"{layers} layer re-estimated")

# %%
# Statistics and affine parameters of its own for each domain. The target has no labels; its forward pass in training
# mode moves its statistics, and the classifier's entropy moves its affine parameters.

model = DomainSpecificModel(copy.deepcopy(net), domains=2).train()
optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
for _ in range(100):
    s, t = torch.randint(1500, (2, 128))
    shares = model(target[t], domain=1).log_softmax(1)
    loss = cross_entropy(model(source[s], domain=0), labels[s]) - 0.1 * (shares.exp() * shares).sum(1).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
model.eval()
scores["DomainSpecificModel, domain 1"] = right(lambda x: model(x, domain=1))
scores["the same model as domain 0"] = right(lambda x: model(x, domain=0))

for name, value in scores.items():
    print(f"{name:30} {value:.1f} %")
figure, ax = plt.subplots(figsize=(6.4, 2.4), layout="constrained")
plot_rows(
    {n: (v,) for n, v in scores.items()}, reference=scores["source only"], xlabel="accuracy on the target, %", ax=ax
)
plt.show()
