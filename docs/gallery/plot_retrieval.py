"""
Cross-modal retrieval with repeated captions
============================================

Videos and captions, two encoders, InfoNCE. Four captions in five are one of twenty sentences, so a batch is full of
negatives that are no negatives. ``duplicate_mask`` says which rows say the same; three things can be done with it.

* Nothing: copies stay negatives of one another.
* ``positive_mask=same``: copies become positives. Where copies have the *same* vector, as here, the mean over
  positives gives the very same number and gradient as doing nothing: the first two rows of the output agree to the
  last digit.
* ``negative_mask=~same``: copies are left out of the negatives. This is the one that helps here, by a few points.
"""

import matplotlib.pyplot as plt
import torch
from torch import nn

from mmda.losses import InfoNCELoss, duplicate_mask
from mmda.validators import pair_retrieval_recall

generator = torch.Generator().manual_seed(0)
N, TEST = 400, 200
meaning = torch.randn(N + TEST, 12, generator=generator)
ids = torch.arange(N + TEST)
often = torch.rand(N + TEST, generator=generator) < 0.8
ids[often] = torch.randint(20, (int(often.sum()),), generator=generator)  # twenty sentences, again and again
meaning[often] = meaning[ids[often]]
video = meaning @ torch.randn(12, 40, generator=generator) + 4.0 * torch.randn(N + TEST, 40, generator=generator)
text = meaning @ torch.randn(12, 30, generator=generator)  # the same sentence has the same vector


def train(use):
    torch.manual_seed(0)
    encoders = nn.ModuleList([nn.Sequential(nn.Linear(w, 64), nn.ReLU(), nn.Linear(64, 32)) for w in (40, 30)])
    loss, optimiser = InfoNCELoss(temperature=0.05), torch.optim.Adam(encoders.parameters(), lr=2e-3)
    recalls = []
    for step in range(240):
        rows = torch.randperm(N)[:128]
        same = duplicate_mask(ids[rows])
        masks = {"positives": {"positive_mask": same}, "left out": {"negative_mask": ~same}}.get(use, {})
        value = loss(encoders[0](video[rows]), encoders[1](text[rows]), **masks)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        if step % 20 == 19:  # any video under the same sentence is a right answer
            with torch.no_grad():
                a, b = encoders[0](video[N:]), encoders[1](text[N:])
                recalls.append(100 * pair_retrieval_recall(a, b, duplicates=ids[N:]).item())
    return recalls, a @ b.T / (a.norm(dim=1)[:, None] * b.norm(dim=1))


figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
order = ids[N:].argsort()[:80]
for k, use in enumerate(["negatives", "positives", "left out"]):
    recalls, similarity = train(use)
    name = f"copies: {use}"
    axes[0].plot(range(20, 241, 20), recalls, label=name, color=["#e07b39", "#3b7dd8", "#2a9d62"][k], ls="-:-"[k])
    if use != "positives":
        ax = axes[1 + k // 2]
        ax.imshow(similarity[order][:, order], vmin=-1, vmax=1, cmap="coolwarm")
        ax.set_title(f"cosines, {name}", fontsize=10)
        ax.set_xlabel("captions, sorted by sentence")
    print(f"{name}: recall at 1 on held-out pairs {recalls[-1]:.1f} %")
axes[0].set_xlabel("step")
axes[0].set_ylabel("recall at 1, %")
axes[0].legend(fontsize=8, frameon=False)
plt.show()
