"""
Where in the video? A similarity curve
======================================

MMCDA answers a sentence with a moment. Trained for a minute on simulated videos of one domain, with those of another
aligned, it is shown two of its answers on the target: the first right one and the first wrong one, not the prettiest.
"""

import matplotlib.pyplot as plt
import torch

from mmda.metrics import temporal_iou
from mmda.models.mmcda import MMCDAConfig, MMCDAObjective, TrainingConfig, build_mmcda, fit, predict_split
from mmda.plots import plot_similarity
from mmda.vmr import ResidentLoader, World, simulate

draw = simulate(World(videos=300, test_videos=60, clips=24, video_rotation=0.3, query_rotation=0.2), seed=0)
torch.manual_seed(0)
model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, hidden=48, joint=32, context_layers=0, dropout=0.0))
source = ResidentLoader(draw.source_train, 32, drop_last=True)
target = ResidentLoader(draw.target_train, 32, seed=1, labels=False, drop_last=True)
fit(model, MMCDAObjective(), source, target, config=TrainingConfig(steps=120))

# %%
# Answers on the target's test videos, whose moments were never seen.

test = draw.target_test
spans, _ = predict_split(model.eval(), ResidentLoader(test, 128, shuffle=False, labels=False))
with torch.no_grad():
    similarity = model(test).similarity
best = spans.windows[:, 0]
iou = temporal_iou(best, test.windows[:, 0]).squeeze()
print(f"{len(iou)} queries; R@1 at IoU 0.5 on the target: {100 * (iou >= 0.5).float().mean():.1f} %")

figure, axes = plt.subplots(2, 1, figsize=(7, 4.8), layout="constrained")
for ax, name, hits in zip(axes, ("right", "wrong"), (iou >= 0.5, iou < 0.1)):
    k = int(hits.nonzero()[0])
    n = int(test.frame_mask[k].sum())
    plot_similarity(
        test.clip_times[k, :n],
        similarity[k, :n],
        truth=test.windows[k][test.window_mask[k]].tolist(),
        prediction=tuple(best[k].tolist()),
        ax=ax,
    )
    ax.set_title(f"{name}: IoU {iou[k]:.2f}", fontsize=10, loc="right")
plt.show()
