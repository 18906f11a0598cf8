"""A memory bank of earlier rows as additional candidates, without false negatives from repeated rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mmda._core.checks import check_count, check_features, check_integers, fail, shape_text


class MemoryCandidates(NamedTuple):
    """The candidates of a batch, for :func:`mmda.losses.info_nce_loss`.

    Attributes:
        rows: (n + size, d), the rows of the batch with their gradient, then those of the bank.
        positive_mask: (n, n + size), True for rows of the batch with the anchor's identity.
        negative_mask: (n, n + size), True for rows of other identities, empty entries of the bank excluded.
    """

    rows: Tensor
    positive_mask: Tensor
    negative_mask: Tensor


class MemoryBank(nn.Module):
    """Ring buffer of recent rows and their identities, used as candidates beyond the batch (memory bank, queue).

    Rows of the same identity, such as an earlier copy of a row or a repeated caption, are never negatives. Pushing a
    row again invalidates its older entry, so that no identity counts twice.

    Args:
        size: number of entries.
        features: d, width of a row.

    Shape:
        ``forward(positive, identities)``: (n, d) and (n,); the result is :class:`MemoryCandidates`.

    Raises:
        ValueError: wrong shapes.
        TypeError: identities that are not integers.

    Notes:
        ``forward`` does not change the bank: call :meth:`push` after the step. Rows, identities and the write position
        are buffers, saved with the module. Entries are up to size / n steps old: keep the bank small or fill it from a
        momentum encoder, as MoCo does. Several rows of one identity in one push are all kept. With several processes
        push gathered rows, so that the banks stay equal.

    Example:
        >>> import torch
        >>> from mmda.losses import InfoNCELoss
        >>> bank, loss = MemoryBank(8, 2), InfoNCELoss(symmetric=False)
        >>> videos, texts, identities = torch.eye(2), torch.eye(2), torch.tensor([7, 8])
        >>> found = bank(texts, identities)
        >>> _ = loss(videos, found.rows, positive_mask=found.positive_mask, negative_mask=found.negative_mask)
        >>> bank.push(texts, identities)
        >>> bank(texts, torch.tensor([8, 9])).negative_mask[:, 2:4]  # the entries of identities 7 and 8
        tensor([[ True, False],
                [ True,  True]])

    References:
        He, Fan, Wu, Xie & Girshick, "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020,
        section 3.2: the queue.
    """

    rows: Tensor
    identities: Tensor
    held: Tensor
    place: Tensor

    def __init__(self, size: int, features: int) -> None:
        super().__init__()
        check_count("MemoryBank", "size", size)
        check_count("MemoryBank", "features", features)
        self.register_buffer("rows", torch.zeros(size, features))
        self.register_buffer("identities", torch.zeros(size, dtype=torch.long))
        self.register_buffer("held", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    def _check(self, caller: str, positive: Tensor, identities: Tensor) -> None:
        check_features(caller, "positive", positive)
        if positive.shape[1] != self.rows.shape[1]:
            fail(caller, "positive", f"have shape (samples, {self.rows.shape[1]})", shape_text(positive))
        check_integers(caller, "identities", identities, positive.shape[:1], device=positive.device)

    def forward(self, positive: Tensor, identities: Tensor) -> MemoryCandidates:
        """Rows of the batch and the bank, with masks of positives and negatives."""
        self._check("MemoryBank", positive, identities)
        own = identities.unsqueeze(1) == identities
        known = identities.unsqueeze(1) == self.identities
        return MemoryCandidates(
            torch.cat([positive, self.rows.to(positive.dtype)]),
            torch.cat([own, torch.zeros_like(known)], 1),
            torch.cat([~own, ~known & self.held], 1),
        )

    if TYPE_CHECKING:
        __call__ = forward

    @torch.no_grad()
    def push(self, positive: Tensor, identities: Tensor) -> None:
        """Write the rows of a batch into the bank, replacing the oldest ones."""
        self._check("MemoryBank.push", positive, identities)
        self.held &= ~torch.isin(self.identities, identities)
        size = self.rows.shape[0]
        count = positive.shape[0]
        index = (self.place + torch.arange(count, device=self.rows.device)) % size
        index, rows, named = index[-size:], positive.detach()[-size:], identities[-size:]
        self.rows[index] = rows.to(self.rows.dtype)
        self.identities[index] = named.long()
        self.held[index] = True
        self.place.copy_((self.place + count) % size)

    def extra_repr(self) -> str:
        size, features = self.rows.shape
        return f"size={size}, features={features}"
