"""The measured work: a function per contestant and kind that runs one step.

A builder imports its library, draws the same inputs as all others and returns a step: forward and backward, returning
the loss. Other libraries are called as documented, with options that give the same value if possible; otherwise the
table shows their values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Step = Callable[[], float]
Builder = Callable[[int, int, torch.device], Step]
#: Maps size and device to a loss of two tensors.
Make = Callable[[int, torch.device], Callable[[Tensor, Tensor], Tensor]]

#: Tile size of the products that define the limit.
EDGE = 512
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)
TEMPERATURE = 0.07


def samples(n: int, d: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Two Gaussian samples, shifted by half a standard deviation in one direction."""
    generator = torch.Generator().manual_seed(n + d)
    x = torch.randn(n, d, generator=generator)
    y = torch.randn(n, d, generator=generator)
    y[:, 0] += 0.5
    return x.to(device).requires_grad_(), y.to(device).requires_grad_()


def sigma(d: int) -> float:
    """Approximate median distance of standard normal rows."""
    return math.sqrt(2 * d)


def step_of(loss: Callable[..., Tensor], *inputs: Tensor, factor: float = 1.0, also: tuple[Tensor, ...] = ()) -> Step:
    """Forward and backward."""

    def step() -> float:
        for tensor in (*inputs, *also):
            tensor.grad = None
        value = loss(*inputs)
        value.backward()
        return factor * value.item()

    return step


def discrepancy(
    make: Callable[[int, torch.device], Callable[[Tensor, Tensor], Tensor]], factor: float = 1.0
) -> Builder:
    return lambda n, d, device: step_of(make(d, device), *samples(n, d, device), factor=factor)


def products(share: float) -> Builder:
    """Only the matrix products, as products of square tiles: ``share`` n^2 d multiplications and additions."""

    def build(n: int, d: int, device: torch.device) -> Step:
        edge = min(n, EDGE)
        a, b = torch.randn(edge, d, device=device), torch.randn(d, edge, device=device)
        out = torch.empty(edge, edge, device=device)
        count = max(1, round(share * n * n / (2 * edge * edge)))

        def step() -> float:
            for _ in range(count):
                torch.mm(a, b, out=out)
            return 2.0 * count * edge * edge * d

        return step

    return build


def operations_alone(builder: Builder) -> Builder:
    """Ours without the compiled loops, which are disabled in this process."""

    def build(n: int, d: int, device: torch.device) -> Step:
        from mmda._engine import native

        native._sweeps = None  # type: ignore[assignment]
        return builder(n, d, device)

    return build


# Maximum mean discrepancy: the mean of five Gaussian kernels, unbiased; and of five Laplacian ones, biased.


def mmd_ours(d: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from mmda.kernels import Gaussian
    from mmda.losses import MMDLoss

    return MMDLoss(kernel=Gaussian(sigma(d), scales=SCALES), estimator="unbiased")


def mmd_ours_laplacian(d: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from mmda.kernels import Laplacian
    from mmda.losses import MMDLoss

    return MMDLoss(kernel=Laplacian(sigma(d), scales=SCALES))


def mmd_dense(d: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """This library's dense formula in plain operations."""
    from mmda._engine.kernel_sums import pair_means
    from mmda.kernels import Gaussian

    kernel = Gaussian(sigma(d), scales=SCALES)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        means = pair_means(x, y, None, None, kernel=kernel, unbiased=True)
        return means.within_x + means.within_y - 2 * means.across

    return loss


def mmd_pytorch_adapt(d: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from pytorch_adapt.layers import MMDLoss

    scales = torch.tensor([1 / s for s in SCALES], device=device)
    return MMDLoss(kernel_scales=scales, mmd_type="quadratic", bandwidth=2 * sigma(d) ** 2)


def mmd_skada(d: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from skada.deep.losses import dan_loss

    sigmas = [math.sqrt(s) * sigma(d) for s in SCALES]
    return lambda x, y: dan_loss(x, y, sigmas=sigmas)


def mmd_geomloss(d: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from geomloss import SamplesLoss

    losses = [SamplesLoss("gaussian", blur=math.sqrt(s) * sigma(d), backend="tensorized") for s in SCALES]
    # its value is half of the biased squared MMD, one kernel at a time
    return lambda x, y: sum(2 * loss(x, y) for loss in losses) / len(losses)  # type: ignore[return-value]


# Contrastive losses on unit rows.


def rows(n: int, d: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n + d)
    a = torch.randn(n, d, generator=generator)
    b = 0.3 * a + torch.randn(n, d, generator=generator)
    a, b = (torch.nn.functional.normalize(t, dim=1).to(device) for t in (a, b))
    return a.requires_grad_(), b.requires_grad_()


def contrast(make: Make) -> Builder:
    return lambda n, d, device: step_of(make(n, device), *rows(n, d, device))


def clip_ours(n: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from mmda.losses import InfoNCELoss

    return InfoNCELoss(temperature=TEMPERATURE, normalize=False)


def clip_ours_normalised(n: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """With the normalisation of the rows included, which the other libraries leave to the model."""
    from mmda.losses import InfoNCELoss

    return InfoNCELoss(temperature=TEMPERATURE)


def clip_open_clip(n: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """As in open_clip's documentation for one device: logits of both directions, two cross-entropies."""
    labels = torch.arange(n, device=device)
    cross_entropy = torch.nn.functional.cross_entropy

    def loss(image: Tensor, text: Tensor) -> Tensor:
        scale = 1 / TEMPERATURE
        per_image, per_text = scale * image @ text.T, scale * text @ image.T
        return (cross_entropy(per_image, labels) + cross_entropy(per_text, labels)) / 2

    return loss


def clip_shared(n: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The same with the second direction as the transpose of the first."""
    labels = torch.arange(n, device=device)
    cross_entropy = torch.nn.functional.cross_entropy

    def loss(image: Tensor, text: Tensor) -> Tensor:
        logits = image @ text.T / TEMPERATURE
        return (cross_entropy(logits, labels) + cross_entropy(logits.T, labels)) / 2

    return loss


def nt_xent_ours(n: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from mmda.losses import NTXentLoss

    return NTXentLoss(temperature=TEMPERATURE)


def nt_xent_metric_learning(n: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from pytorch_metric_learning.losses import NTXentLoss

    loss = NTXentLoss(temperature=TEMPERATURE)
    labels = torch.arange(n, device=device).repeat(2)
    return lambda a, b: loss(torch.cat([a, b]), labels)


def sigmoid_ours(n: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from mmda.losses import SigmoidContrastiveLoss

    return SigmoidContrastiveLoss(temperature=0.1, bias=-10.0, normalize=False)


def sigmoid_paper(n: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The paper's algorithm 1."""
    labels = 2 * torch.eye(n, device=device) - 1

    def loss(image: Tensor, text: Tensor) -> Tensor:
        logits = image @ text.T * 10 - 10
        return -torch.nn.functional.logsigmoid(labels * logits).sum() / n

    return loss


def coral_ours(d: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from mmda.losses import CORALLoss

    return CORALLoss()


def coral_skada(d: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from skada.deep.losses import deepcoral_loss

    return deepcoral_loss


def coral_pytorch_adapt(d: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    from pytorch_adapt.layers import CORALLoss

    return CORALLoss()


WORK: dict[str, dict[str, Builder]] = {
    "mmd": {
        "ours": discrepancy(mmd_ours),
        "ours, Laplacian": discrepancy(mmd_ours_laplacian, factor=len(SCALES)),  # a sum there, a mean here
        "ours, not compiled": operations_alone(discrepancy(mmd_ours)),
        "dense formula": discrepancy(mmd_dense),
        "skada": discrepancy(mmd_skada),
        "pytorch-adapt": discrepancy(mmd_pytorch_adapt),
        "geomloss": discrepancy(mmd_geomloss),
        "products alone": products(12),
    },
    "clip": {
        "ours": contrast(clip_ours),
        "ours, normalising": contrast(clip_ours_normalised),
        "ours, not compiled": operations_alone(contrast(clip_ours)),
        "open_clip's form": contrast(clip_open_clip),
        "shared logits": contrast(clip_shared),
        "products alone": products(6),
    },
    "nt_xent": {
        "ours": contrast(nt_xent_ours),
        "pytorch-metric-learning": contrast(nt_xent_metric_learning),
    },
    "sigmoid": {
        "ours": contrast(sigmoid_ours),
        "the paper's form": contrast(sigmoid_paper),
        "products alone": products(6),
    },
    "coral": {
        "ours": discrepancy(coral_ours),
        "skada": discrepancy(coral_skada),
        "pytorch-adapt": discrepancy(coral_pytorch_adapt),
    },
}


def build(kind: str, who: str, n: int, d: int, device: str) -> Step:
    """The step of one contestant."""
    place = torch.device(device)
    step: Any = WORK[kind][who](n, d, place)
    return step  # type: ignore[no-any-return]
