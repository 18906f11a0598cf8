"""
Shift report: how far are two domains apart?
============================================

Before aligning anything, ask whether there is a shift and where. The report tests each modality, says how large the
shift is in several units, and compares before with after.
"""

import matplotlib.pyplot as plt
import torch

from mmda.linear import CORALMap
from mmda.shift import shift_report

generator = torch.Generator().manual_seed(0)


def sample(n, width):
    return torch.randn(n, width, generator=generator)


video = (sample(300, 16), 1.4 * sample(250, 16) + 0.5)  # stretched and shifted
query = (sample(300, 12), sample(250, 12))  # no shift at all

# %%
# CORAL as a closed-form map: whiten the source, colour it like the target, move the mean. No training.

coral = CORALMap().fit(*video)
report = shift_report(
    {"video": video, "query": query},
    {"video": (coral(video[0]), video[1]), "query": query},
    generator=torch.Generator().manual_seed(0),
)
print(report)

# %%
# The query features show no shift: a reason to leave their alignment term out. The p-values of both, side by side;
# the smallest that 500 permutations can give is 1 / 501.

figure, ax = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
names = ["video", "query"]
for k, (name, rows) in enumerate([("before", report.before), ("after CORAL", report.after)]):
    places = [place + 0.38 * (k - 0.5) for place in range(2)]
    bars = ax.barh(places, [rows[n].p_value for n in names], height=0.36, label=name, color=["#3b7dd8", "#e07b39"][k])
    ax.bar_label(bars, fmt="%.3f", padding=3, fontsize=8)
ax.axvline(0.05, color="#808080", linestyle="--", linewidth=1)
ax.set_yticks(range(2), names)
ax.set_xlim(0, 1.1)
ax.set_xlabel("p-value of the permutation test (dashed: 0.05)")
ax.legend(fontsize=8, frameon=False, loc="lower right")
plt.show()
