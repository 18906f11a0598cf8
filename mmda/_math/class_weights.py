"""Shared by the class-conditional discrepancies: row weights per class, and sums of kernel values between classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmda._core.checks import check_count, check_tensor, fail, shape_text
from mmda._core.components import check_kernel
from mmda._core.counts import pooled_centre
from mmda._core.digits import with_enough_digits
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.rows import two_samples, zero_uncounted
from mmda._core.transforms import values_are_known
from mmda._engine.kernel_sums import absorb_bandwidth
from mmda._engine.kernel_sweep import Samples, can_stream, pair_sum
from mmda.kernels import Kernel, distances_about, settle_bandwidth


def count_classes(
    caller: str, first: str, first_labels: Tensor, second: str, second_labels: Tensor, classes: int | None
) -> int:
    """The number of classes, checked against two sets of hard or soft labels and the argument ``classes``."""
    if classes is not None:
        check_count(caller, "classes", classes)
    for name, labels in ((first, first_labels), (second, second_labels)):
        check_tensor(caller, name, labels)
        if labels.is_floating_point() and labels.ndim > 0:
            width = labels.shape[-1]
            if width == 0:
                fail(caller, name, "have at least one column, one per class", shape_text(labels))
            if classes is not None and width != classes:
                fail(caller, name, f"have {classes} columns, one per class", shape_text(labels))
            classes = width
    if classes is None:
        fail(caller, "classes", f"be given if `{first}` and `{second}` are both integer labels", "None")
    return classes


def memberships(
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
    """Membership (rows, classes) of each row in each class, detached; zeros for rows of weight 0.

    Integer labels (n,) or (b, t) are one-hot (a label outside 0 .. classes - 1 means no class); floating-point ones (n,
    classes) or (b, t, classes) are memberships.
    """
    leading = tuple(features.shape[:-1])
    if labels.device != features.device:
        fail(caller, argument, f"be on the device of the features ({features.device})", labels.device)
    if labels.is_floating_point():
        if tuple(labels.shape) != (*leading, classes):
            fail(caller, argument, f"have shape {(*leading, classes)} as probabilities", shape_text(labels))
        member = labels.detach().to(dtype)
    else:
        if labels.dtype == torch.bool or labels.is_complex():
            raise TypeError(f"{caller}: `{argument}` must hold integers or probabilities, got {labels.dtype}")
        if tuple(labels.shape) != leading:
            fail(caller, argument, f"have shape {leading} as integer labels", shape_text(labels))
        member = (labels.unsqueeze(-1) == torch.arange(classes, device=labels.device)).to(dtype)
    member = member.reshape(-1, classes)
    if row_weight is None:
        return member
    return zero_uncounted(member, row_weight, None if mask is None else mask.reshape(-1))


def class_columns(member: Tensor, row_weight: Tensor | None) -> Tensor:
    """Weights (rows, classes): row weights times memberships."""
    return member if row_weight is None else member * row_weight.unsqueeze(1)


def class_discrepancy(
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
    mix: Callable[[Tensor], Tensor],
) -> Tensor:
    """Check the arguments and compute a weighted sum of the squared MMDs between source and target classes.

    ``mix`` returns the weights (classes, classes) given which pairs of classes are present (others must get zero).
    Computed in tiles if possible, otherwise dense.
    """
    check_kernel(caller, "kernel", kernel)
    dtype = working_dtype(source, target)
    with full_precision(source):
        x, y, x_weight, y_weight = two_samples(
            caller, source, target, (source_weight, target_weight), (source_mask, target_mask)
        )
        labels = (source_labels, target_probabilities)
        names = ("source_labels", "target_probabilities")
        classes = count_classes(caller, names[0], labels[0], names[1], labels[1], classes)
        a, b = (
            class_columns(
                memberships(caller, name, label, rows, mask=mask, row_weight=weight, classes=classes, dtype=dtype),
                weight,
            )
            for name, label, rows, mask, weight in zip(
                names, labels, (source, target), (source_mask, target_mask), (x_weight, y_weight)
            )
        )
        x_mass, y_mass = a.sum(0, dtype=torch.float64), b.sum(0, dtype=torch.float64)
        factors = mix((x_mass > 0).unsqueeze(1) & (y_mass > 0)).double()
        # normalised weights in float64, because sums nearly cancel
        a, b = (safe_divide(t, mass.expand_as(t)) for t, mass in ((a.double(), x_mass), (b.double(), y_mass)))
        # sum of F_cd (a_c K a_c + b_d K b_d - 2 a_c K b_d), with the normalised weights a_c and b_d of rows in classes
        of_x, across, of_y = a * factors.sum(1), a @ factors, b * factors.sum(0)
        x_weight, y_weight = _belonging(a, x_weight, dtype), _belonging(b, y_weight, dtype)
        x, y, bandwidth = absorb_bandwidth(kernel, x, y, settle_bandwidth(kernel, x, y, x_weight, y_weight))
        centre = pooled_centre(x, y, x_weight, y_weight)
        if can_stream(kernel, (x, y), (a, b, bandwidth)):
            left = torch.cat((torch.cat((of_x, -across), 1), torch.cat((-b @ factors.T, of_y), 1)))
            diagonal = (of_x * a).sum(dtype=torch.float64) + (of_y * b).sum(dtype=torch.float64)
            plus = kernel.at_zero * diagonal
            return pair_sum(Samples(x, y, left, torch.cat((a, b)), bandwidth.detach(), centre, plus), kernel)

        def by_matrices(dtype: torch.dtype) -> Tensor:
            rows, about, sigma = (x.to(dtype), y.to(dtype)), centre.to(dtype), bandwidth.to(dtype)

            def mean(i: int, j: int, left: Tensor, right: Tensor) -> Tensor:
                gram = kernel.evaluate(distances_about(about, rows[i], rows[j], same=i == j), sigma)
                return (left.to(dtype) * (gram @ right.to(dtype))).sum()

            return mean(0, 0, of_x, a) + mean(1, 1, of_y, b) - 2 * mean(0, 1, across, b)

        return with_enough_digits(by_matrices, x, y, a, b, bandwidth, dtype=dtype, bounded=kernel.at_zero > 0)


def _belonging(shares: Tensor, weight: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Row weights with zeros for rows without a class, which are ignored, also for the bandwidth."""
    some = (shares.detach() > 0).any(1)
    if (
        shares.device.type == "cpu" and values_are_known(shares) and bool(some.all())
    ):  # reading values is free on the CPU
        return weight
    return some.to(dtype) if weight is None else torch.where(some, weight, 0.0)


def equal_shares(chosen: Tensor) -> Tensor:
    """One over the number of True entries where ``chosen`` is True, else 0."""
    ones = chosen.to(torch.float64)
    return safe_divide(ones, ones.sum().expand_as(ones))


def equal_classes(present: Tensor) -> Tensor:
    """Mask of the pairs of a class with itself."""
    return torch.eye(present.shape[0], dtype=torch.bool, device=present.device)
