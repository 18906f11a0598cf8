"""A split in memory that stores each video's frames once, and batches indexed from it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmda._core.checks import check_count, check_mask, fail, shape_text
from mmda.vmr.batch import VMRBatch
from mmda.vmr.collation import bucketed_batches, check_ranks, pad_rows, pad_windows, share_of
from mmda.vmr.data import VMRDataset


@dataclass(frozen=True)
class ResidentSplit:
    """A split in memory: frames stored once per video, words once per query (a :class:`VMRBatch` repeats the frames).

    Attributes are those of a batch, except that ``frames``, ``frame_mask`` and ``clip_times`` have one row per video:
    ``frames[frame_row[i]]`` belongs to pair i. :meth:`slice` returns pairs as a batch.

    Args:
        frames: frame (clip) features of every video.
        frame_mask: which frames are valid.
        clip_times: start and end of every clip in seconds.
        frame_row: the row of ``frames`` of each pair.
        words: word features of every pair.
        word_mask: which words are valid.
        duration: length of each pair's video in seconds.
        windows: the moments in seconds; ``None`` if they are hidden or unknown.
        window_mask: which windows are valid; ``None`` if and only if ``windows`` is.
        video_index: pairs of the same video share one index.
        text_index: pairs with the same query text share one index.
        qids: the query id of every pair.

    Shape:
        v videos, b pairs: frames ``(v, t, d_v)``, frame_mask ``(v, t)``, clip_times ``(v, t, 2)``, frame_row ``(b,)``,
        the others as in :class:`VMRBatch`.

    Raises:
        ValueError: if a shape does not fit the others, or ``frame_row`` is out of range.

    Example:
        >>> import numpy as np
        >>> from mmda.vmr import ArrayStore, VMRDataset, VMRQuery, validate_queries
        >>> notes = validate_queries([VMRQuery(f"q{k}", "v", "a dog runs", 10.0, ((0.0, k + 1.0),)) for k in range(3)])
        >>> data = VMRDataset(notes, ArrayStore({"v": np.ones((5, 8))}), ArrayStore({q.qid: np.ones(4) for q in notes}))
        >>> split = ResidentSplit.from_dataset(data)
        >>> len(split), split.frames.shape, split.slice([2, 0]).frames.shape
        (3, torch.Size([1, 5, 8]), torch.Size([2, 5, 8]))
    """

    frames: Tensor
    frame_mask: Tensor
    clip_times: Tensor
    frame_row: Tensor
    words: Tensor
    word_mask: Tensor
    duration: Tensor
    windows: Tensor | None
    window_mask: Tensor | None
    video_index: Tensor
    text_index: Tensor
    qids: tuple[str, ...]

    def __post_init__(self) -> None:
        caller, b = "ResidentSplit", len(self.qids)
        if self.frames.ndim != 3:
            fail(caller, "frames", "have shape (v, t, d_v)", shape_text(self.frames))
        check_mask(caller, "frame_mask", self.frame_mask, self.frames.shape[:2], device=self.frames.device)
        if tuple(self.clip_times.shape) != (*self.frames.shape[:2], 2):
            fail(caller, "clip_times", f"have shape {(*self.frames.shape[:2], 2)}", shape_text(self.clip_times))
        if tuple(self.frame_row.shape) != (b,):
            fail(caller, "frame_row", f"have shape {(b,)}", shape_text(self.frame_row))
        if b and not 0 <= int(self.frame_row.min()) <= int(self.frame_row.max()) < len(self.frames):
            came = f"{int(self.frame_row.min())} to {int(self.frame_row.max())}"
            fail(caller, "frame_row", f"lie in the {len(self.frames)} rows of `frames`", came)
        none = self.frames[:0].new_zeros((b, 0, 1))  # the other fields are checked by VMRBatch
        VMRBatch(
            frames=none,
            frame_mask=none[..., 0].bool(),
            clip_times=none.expand(b, 0, 2),
            words=self.words,
            word_mask=self.word_mask,
            duration=self.duration,
            windows=self.windows,
            window_mask=self.window_mask,
            video_index=self.video_index,
            text_index=self.text_index,
            qids=self.qids,
        )

    @classmethod
    def from_dataset(cls, data: VMRDataset) -> ResidentSplit:
        """All pairs of a data set; hidden moments stay hidden."""
        frames, frame_mask = pad_rows("frames", [data.frames(vid) for vid in data.vids])
        clip_times, _ = pad_rows("clip_times", [data.clip_times(vid) for vid in data.vids])
        words, word_mask = pad_rows("words", [data.words(query.qid) for query in data.queries])
        windows = window_mask = None
        if not data.closed:
            windows, window_mask = pad_windows([query.windows for query in data.queries])
        video_index, text_index = data.indices
        return cls(
            frames=frames,
            frame_mask=frame_mask,
            clip_times=clip_times,
            frame_row=torch.tensor(video_index),  # videos are numbered in the order of `vids`
            words=words,
            word_mask=word_mask,
            duration=torch.tensor([query.duration for query in data.queries], dtype=torch.float64),
            windows=windows,
            window_mask=window_mask,
            video_index=torch.tensor(video_index),
            text_index=torch.tensor(text_index),
            qids=tuple(query.qid for query in data.queries),
        )

    @classmethod
    def from_batch(cls, batch: VMRBatch) -> ResidentSplit:
        """The pairs of a batch, each with its own frames, without copying."""
        return cls(
            **{name: getattr(batch, name) for name in batch.__dataclass_fields__},
            frame_row=torch.arange(len(batch), device=batch.frames.device),
        )

    def __len__(self) -> int:
        """Number of (video, query) pairs."""
        return len(self.qids)

    def without_moments(self) -> ResidentSplit:
        """The target's view: ``windows`` and ``window_mask`` are ``None``, all else is shared."""
        return replace(self, windows=None, window_mask=None)

    def slice(self, indices: Sequence[int] | Tensor) -> VMRBatch:
        """The pairs at ``indices``, in that order, as a batch with the same padding."""
        rows = [int(i) for i in indices]
        index = torch.tensor(rows, dtype=torch.long, device=self.frames.device)
        video = self.frame_row.index_select(0, index)

        def take(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.index_select(0, index)

        return VMRBatch(
            frames=self.frames.index_select(0, video),
            frame_mask=self.frame_mask.index_select(0, video),
            clip_times=self.clip_times.index_select(0, video),
            words=self.words.index_select(0, index),
            word_mask=self.word_mask.index_select(0, index),
            duration=self.duration.index_select(0, index),
            windows=take(self.windows),
            window_mask=take(self.window_mask),
            video_index=self.video_index.index_select(0, index),
            text_index=self.text_index.index_select(0, index),
            qids=tuple(self.qids[i] for i in rows),
        )

    def select(self, indices: Sequence[int] | Tensor) -> ResidentSplit:
        """The pairs at ``indices``, in that order; the videos' frames are shared."""
        rows = [int(i) for i in indices]
        index = torch.tensor(rows, dtype=torch.long, device=self.frames.device)
        names = ["frame_row", "words", "word_mask", "duration", "video_index", "text_index"]
        names += [] if self.windows is None else ["windows", "window_mask"]
        taken = {name: getattr(self, name).index_select(0, index) for name in names}
        return replace(self, **taken, qids=tuple(self.qids[i] for i in rows))

    def join(self, other: ResidentSplit) -> ResidentSplit:
        """Concatenate two splits, padded to a common size; video and text indices do not overlap.

        Raises:
            ValueError: if only one of them has moments, or widths differ.
        """
        if (self.windows is None) != (other.windows is None):
            fail("ResidentSplit.join", "other", "have moments if and only if this split has", "only one of the two")
        for name in ("frames", "words"):
            mine, theirs = getattr(self, name).shape[-1], getattr(other, name).shape[-1]
            if mine != theirs:
                fail("ResidentSplit.join", "other", f"have {name} of width {mine}", theirs)

        def both(name: str) -> Tensor:
            a, b = getattr(self, name), getattr(other, name)
            size = max(a.shape[1], b.shape[1])
            return torch.cat([pad(x, [0, 0] * (x.ndim - 2) + [0, size - x.shape[1]]) for x in (a, b)])

        def apart(name: str) -> Tensor:
            a, b = getattr(self, name), getattr(other, name)
            return torch.cat([a, b + int(a.max()) + 1])

        closed = self.windows is None
        return ResidentSplit(
            frames=both("frames"),
            frame_mask=both("frame_mask"),
            clip_times=both("clip_times"),
            frame_row=torch.cat([self.frame_row, other.frame_row + len(self.frames)]),
            words=both("words"),
            word_mask=both("word_mask"),
            duration=torch.cat([self.duration, other.duration]),
            windows=None if closed else both("windows"),
            window_mask=None if closed else both("window_mask"),
            video_index=apart("video_index"),
            text_index=apart("text_index"),
            qids=self.qids + other.qids,
        )


class ResidentLoader:
    """Length-bucketed batches of a split in memory, with the interface of :class:`mmda.vmr.VMRLoader`.

    Args:
        split: all pairs of the split: a :class:`ResidentSplit` or one :class:`VMRBatch`.
        batch_size: pairs a batch.
        seed: seed of the order, which differs in each epoch.
        shuffle: random order in each epoch; otherwise the order of the split.
        labels: include the moments; ``False`` removes them first.
        drop_last: leave out batches of fewer pairs than ``batch_size``.
        rank: index of this process among ``ranks``; each takes its part of every batch.
        ranks: number of processes that iterate over the split together.

    Raises:
        ValueError: a count is out of range, labels are requested from a split without moments, or a batch has fewer
            pairs than there are ranks.

    Example:
        >>> from mmda.vmr.simulator import World, simulate
        >>> split = simulate(World(videos=5, test_videos=1)).source_train
        >>> [len(batch) for batch in ResidentLoader(split, 2, shuffle=False)]
        [2, 2, 1]
    """

    def __init__(
        self,
        split: ResidentSplit | VMRBatch,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        labels: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        check_count("ResidentLoader", "batch_size", batch_size)
        if labels and split.windows is None:
            fail("ResidentLoader", "labels", "be False for a split whose moments are hidden", True)
        self.split = split if labels else split.without_moments()
        self.batch_size, self.seed, self.shuffle, self.drop_last = batch_size, seed, shuffle, drop_last
        check_ranks("ResidentLoader", len(split), batch_size, drop_last, rank, ranks)
        self.rank, self.ranks = rank, ranks
        #: index of the next epoch, incremented by every pass
        self.epoch = 0
        self._lengths: list[int] = split.frame_mask.sum(1).tolist()
        if isinstance(split, ResidentSplit):
            self._lengths = [self._lengths[row] for row in split.frame_row.tolist()]
        self._words: list[int] = split.word_mask.sum(1).tolist()

    def __len__(self) -> int:
        """Number of batches per epoch."""
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
            yield self._cut(share_of(indices, self.rank, self.ranks))

    def _cut(self, indices: list[int]) -> VMRBatch:
        """The batch at ``indices``, cut to its longest video and query."""
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
