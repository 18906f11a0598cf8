"""Batches cut from a split that is in memory as one padded batch: an index, a trim, no copy of what is not used."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from mmda._checks import check_count, fail
from mmda.vmr.batch import VMRBatch
from mmda.vmr.collation import bucketed_batches


class ResidentLoader:
    """Length-bucketed batches of a split held as one :class:`VMRBatch`; the call of :class:`mmda.vmr.VMRLoader`.

    Args:
        split: every pair of the split, padded once.
        batch_size: pairs a batch.
        seed: of the order; each pass has its own.
        shuffle: random order each pass; else the order of the split.
        labels: give the moments; ``False`` leaves them behind before any batch is cut.
        drop_last: leave out batches of fewer pairs than ``batch_size``.

    Raises:
        ValueError: a count is out of range, or labels are asked of a split without moments.

    Example:
        >>> from mmda.vmr.simulator import World, simulate
        >>> split = simulate(World(videos=5, test_videos=1)).source_train
        >>> [len(batch) for batch in ResidentLoader(split, 2, shuffle=False)]
        [2, 2, 1]
    """

    def __init__(
        self,
        split: VMRBatch,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        labels: bool = True,
        drop_last: bool = False,
    ) -> None:
        check_count("ResidentLoader", "batch_size", batch_size)
        if labels and split.windows is None:
            fail("ResidentLoader", "labels", "be False for a split whose moments are closed", True)
        self.split = split if labels else split.without_moments()
        self.batch_size, self.seed, self.shuffle, self.drop_last = batch_size, seed, shuffle, drop_last
        #: number of the next pass; every pass adds one
        self.epoch = 0
        self._lengths: list[int] = split.frame_mask.sum(1).tolist()
        self._words: list[int] = split.word_mask.sum(1).tolist()

    def __len__(self) -> int:
        """Number of batches of a pass."""
        whole, rest = divmod(len(self.split), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[VMRBatch]:
        if self.shuffle:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % (1 << 63))
            order = bucketed_batches(
                self._lengths, self.batch_size, generator=generator, drop_last=self.drop_last, pool=8
            )
        else:
            rows = list(range(len(self.split)))
            order = [rows[i * self.batch_size : (i + 1) * self.batch_size] for i in range(len(self))]
        self.epoch += 1
        for indices in order:
            yield self._cut(indices)

    def _cut(self, indices: list[int]) -> VMRBatch:
        """Rows without the columns that would be padding in all of them."""
        t = max(self._lengths[i] for i in indices)
        length = max(self._words[i] for i in indices)
        batch = self.split.slice(indices)
        return replace(
            batch,
            frames=batch.frames[:, :t],
            frame_mask=batch.frame_mask[:, :t],
            clip_times=batch.clip_times[:, :t],
            words=batch.words[:, :length],
            word_mask=batch.word_mask[:, :length],
        )
