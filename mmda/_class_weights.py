"""Row weights a class, and sums of kernel values between classes: what the class-conditional discrepancies share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmda._checks import check_count, check_same_width, check_tensor, fail, shape_text
from mmda._kernel_sums import pooled_centre, settle_bandwidth
from mmda._masking import as_rows, full_precision, safe_divide, working_dtype
from mmda.kernels import Kernel, centred_squared_distances


class ClassMeans(NamedTuple):
    """Mean kernel values between classes, and how much weight each class holds."""

    within_x: Tensor  #: (classes,), mean of k over the pairs inside each class of x
    within_y: Tensor  #: (classes,), the same for y
    across: Tensor  #: (classes, classes), entry (a, b): mean of k between class a of x and class b of y
    x_mass: Tensor  #: (classes,)
    y_mass: Tensor  #: (classes,)


def count_classes(
    caller: str, first: str, first_labels: Tensor, second: str, second_labels: Tensor, classes: int | None
) -> int:
    """The number of classes that two sets of labels, hard or soft, and the argument ``classes`` agree on."""
    if classes is not None:
        check_count(caller, "classes", classes)
    for name, labels in ((first, first_labels), (second, second_labels)):
        check_tensor(caller, name, labels)
        if labels.is_floating_point() and labels.ndim > 0:
            width = labels.shape[-1]
            if classes is not None and width != classes:
                fail(caller, name, f"have {classes} columns, one a class", shape_text(labels))
            classes = width
    if classes is None:
        fail(caller, "classes", f"be given where `{first}` and `{second}` are both integer labels", "None")
    return classes


def class_columns(
    caller: str,
    argument: str,
    labels: Tensor,
    features: Tensor,
    *,
    mask: Tensor | None,
    row_weight: Tensor | None,
    classes: int,
    dtype: torch.dtype,
) -> Tensor:
    """Weights (rows, classes): row weight times the membership of each row in each class, detached from labels.

    Integer labels (n,) or (b, t) are one-hot (a label outside 0 .. classes - 1 belongs nowhere); floating-point
    ones (n, classes) or (b, t, classes) are memberships.
    """
    leading = tuple(features.shape[:-1])
    if labels.is_floating_point():
        if tuple(labels.shape) != (*leading, classes):
            fail(caller, argument, f"have shape {(*leading, classes)} as probabilities", shape_text(labels))
        member = labels.detach().to(dtype)
        if mask is not None:
            member = torch.where(mask.unsqueeze(-1), member, torch.zeros((), dtype=dtype, device=member.device))
    else:
        if labels.dtype == torch.bool or labels.is_complex():
            raise TypeError(f"{caller}: `{argument}` must hold integers or probabilities, got {labels.dtype}")
        if tuple(labels.shape) != leading:
            fail(caller, argument, f"have shape {leading} as integer labels", shape_text(labels))
        member = (labels.unsqueeze(-1) == torch.arange(classes, device=labels.device)).to(dtype)
    member = member.reshape(-1, classes)
    return member if row_weight is None else member * row_weight.unsqueeze(1)


def class_means(
    caller: str,
    source: Tensor,
    target: Tensor,
    *,
    source_labels: Tensor,
    target_probabilities: Tensor,
    classes: int | None,
    kernel: Kernel,
    source_weight: Tensor | None,
    target_weight: Tensor | None,
    source_mask: Tensor | None,
    target_mask: Tensor | None,
) -> ClassMeans:
    """Check everything and average k within and between the classes of two samples; an absent class has mean 0."""
    dtype = working_dtype(source, target)
    with full_precision(source):
        x, x_weight = as_rows(caller, "source", source, mask=source_mask, weight=source_weight, dtype=dtype)
        y, y_weight = as_rows(caller, "target", target, mask=target_mask, weight=target_weight, dtype=dtype)
        check_same_width(caller, "source", x, "target", y)
        labels = (source_labels, target_probabilities)
        names = ("source_labels", "target_probabilities")
        classes = count_classes(caller, names[0], labels[0], names[1], labels[1], classes)
        a, b = (
            class_columns(caller, name, label, rows, mask=mask, row_weight=weight, classes=classes, dtype=dtype)
            for name, label, rows, mask, weight in zip(
                names, labels, (source, target), (source_mask, target_mask), (x_weight, y_weight)
            )
        )
        bandwidth = settle_bandwidth(kernel, x, y, x_weight, y_weight)
        centre = pooled_centre(x, y, x_weight, y_weight)
        x, y = x - centre, y - centre
        x_gram = kernel.evaluate(centred_squared_distances(x, x, same=True), bandwidth)
        y_gram = kernel.evaluate(centred_squared_distances(y, y, same=True), bandwidth)
        gram = kernel.evaluate(centred_squared_distances(x, y), bandwidth)
        x_mass, y_mass = a.sum(0), b.sum(0)
        return ClassMeans(
            safe_divide((a * (x_gram @ a)).sum(0), x_mass.square()),
            safe_divide((b * (y_gram @ b)).sum(0), y_mass.square()),
            safe_divide(a.T @ gram @ b, x_mass.unsqueeze(1) * y_mass),
            x_mass,
            y_mass,
        )


def mean_where(values: Tensor, present: Tensor) -> Tensor:
    """Mean of the entries whose ``present`` is True; a connected zero where none is."""
    kept = torch.where(present, values, 0 * values)
    return safe_divide(kept.sum(), present.sum().to(values.dtype)) + 0 * kept.sum()
