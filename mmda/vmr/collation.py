"""From examples to batches: bucketed by length, padded, and made ahead by threads."""

from __future__ import annotations

import math
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice, pairwise

import torch
from torch import Tensor

from mmda._core.checks import check_count, fail
from mmda.vmr.annotations import Window
from mmda.vmr.batch import VMRBatch
from mmda.vmr.data import VMRDataset, VMRExample


def bucketed_batches(
    lengths: Sequence[int],
    batch_size: int,
    *,
    shuffle: bool = True,
    seed: int = 0,
    generator: torch.Generator | None = None,
    pool: int = 32,
    drop_last: bool = False,
) -> list[list[int]]:
    """Batches of indices of examples with similar lengths, to reduce padding.

    Shuffled: a random order is split into pools of ``pool`` batches, each pool is sorted by length and split into
        batches, and the batches are shuffled. Not shuffled: one pool, shortest first.

    Args:
        lengths: length of every example.
        batch_size: examples per batch; the last of a pool may have fewer.
        shuffle: random batches in random order.
        seed: seed of the order if no generator is given.
        generator: source of randomness; it advances.
        pool: batches per pool: small pools mix lengths more, large ones need less padding.
        drop_last: leave out batches of fewer than ``batch_size``.

    Returns:
        Lists of indices; without ``drop_last`` every index occurs exactly once.

    Raises:
        ValueError: if a count is below 1.

    Example:
        >>> bucketed_batches([5, 1, 4, 2, 3], 2, shuffle=False)
        [[1, 3], [4, 2], [0]]
    """
    check_count("bucketed_batches", "batch_size", batch_size)
    check_count("bucketed_batches", "pool", pool)
    count = len(lengths)
    if not shuffle:
        order = sorted(range(count), key=lambda i: lengths[i])
        batches = [order[i : i + batch_size] for i in range(0, count, batch_size)]
    else:
        if generator is None:
            generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(count, generator=generator).tolist()
        batches = []
        for first in range(0, count, pool * batch_size):
            part = sorted(drawn[first : first + pool * batch_size], key=lambda i: lengths[i])
            # the incomplete batch is taken from a random place, because at the end it would always be the longest
            whole, rest = divmod(len(part), batch_size)
            short = int(torch.randint(whole + 1, (), generator=generator)) if rest else whole
            cuts = [i * batch_size + (rest - batch_size if i > short else 0) for i in range(whole + 1 + (rest > 0))]
            batches += [part[i:j] for i, j in pairwise(cuts)]
        batches = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
    return [batch for batch in batches if len(batch) == batch_size] if drop_last else batches


def share_of(batch: Sequence[int], rank: int, ranks: int) -> list[int]:
    """The contiguous part of a batch for one of ``ranks`` processes; sizes differ by at most one.

    The parts of all ranks, concatenated, are the batch.

    Example:
        >>> [share_of([7, 3, 5, 1, 2], rank, 2) for rank in range(2)]
        [[7, 3, 5], [1, 2]]
    """
    size, more = divmod(len(batch), ranks)
    start = rank * size + min(rank, more)
    return list(batch[start : start + size + (rank < more)])


def check_ranks(caller: str, count: int, batch_size: int, drop_last: bool, rank: int, ranks: int) -> None:
    """Check that every rank gets at least one pair of every batch."""
    check_count(caller, "ranks", ranks)
    check_count(caller, "rank", rank, at_least=0)
    if rank >= ranks:
        fail(caller, "rank", f"be below `ranks` ({ranks})", rank)
    smallest = batch_size if drop_last or count % batch_size == 0 else count % batch_size
    if ranks > 1 and smallest < ranks:
        rule = f"give each of {ranks} ranks a pair of every batch (`drop_last=True` drops short ones)"
        fail(caller, "batch_size", rule, f"a batch of {smallest}")


def collate(examples: Sequence[VMRExample]) -> VMRBatch:
    """Pad examples to one batch; padding holds zeros.

    Args:
        examples: pairs with equal widths, all with or all without moments.

    Returns:
        The batch. ``windows`` is ``None`` if the examples' moments are hidden; times are float64.

    Raises:
        ValueError: if there is no example, widths differ, or only some have hidden moments.

    Example:
        >>> import torch
        >>> def example(t: int) -> VMRExample:
        ...     times = torch.arange(2 * t).view(t, 2).float()
        ...     return VMRExample("q", "v", "hi", torch.ones(t, 3), torch.ones(1, 4), times, 2.0 * t, None, 0, 0)
        >>> batch = collate([example(2), example(5)])
        >>> batch.frames.shape, batch.frame_mask.sum(1).tolist(), batch.windows
        (torch.Size([2, 5, 3]), [2, 5], None)
    """
    return _collate(examples)


class _Memory:
    """Memory for tensors, used again once nothing refers to the tensor, its views or its NumPy arrays any more.

    New memory is cleared page by page by the system, which takes longer than filling it. ``spare`` blocks are kept.
    """

    def __init__(self, spare: int) -> None:
        self._free: deque[Tensor] = deque(maxlen=spare)

    def empty(self, *shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        size = math.prod(shape) * dtype.itemsize
        if device.type != "cpu" or not size:
            return torch.empty(shape, dtype=dtype, device=device)
        try:
            block = self._free.pop()
        except IndexError:
            block = None
        if block is None or block.numel() < size:
            block = torch.empty(size, dtype=torch.uint8)
        lease = block.numpy()[:size]  # held by the tensor's storage, and with it by all that shares this storage
        weakref.finalize(lease, self._returned, weakref.ref(self), block).atexit = False
        return torch.from_numpy(lease).view(dtype).view(shape)

    @staticmethod
    def _returned(memory: weakref.ref[_Memory], block: Tensor) -> None:
        owner = memory()
        if owner is not None:  # the iteration is not over
            owner._free.append(block)


def _collate(examples: Sequence[VMRExample], empty: Callable[..., Tensor] = torch.empty) -> VMRBatch:
    if not examples:
        raise ValueError("collate: `examples` must hold at least one example, got none")
    closed = {example.windows is None for example in examples}
    if len(closed) > 1:
        raise ValueError("collate: `examples` must all have their moments or all have them hidden, got both")
    frames, frame_mask = pad_rows("frames", [example.frames for example in examples], empty)
    words, word_mask = pad_rows("words", [example.words for example in examples])
    clip_times, _ = pad_rows("clip_times", [example.clip_times for example in examples])
    windows = window_mask = None
    if closed == {False}:
        windows, window_mask = pad_windows([example.windows or () for example in examples])
    return VMRBatch(
        frames=frames,
        frame_mask=frame_mask,
        words=words,
        word_mask=word_mask,
        clip_times=clip_times,
        duration=torch.tensor([example.duration for example in examples], dtype=torch.float64),
        windows=windows,
        window_mask=window_mask,
        video_index=torch.tensor([example.video_index for example in examples]),
        text_index=torch.tensor([example.text_index for example in examples]),
        qids=tuple(example.qid for example in examples),
    )


class VMRLoader:
    """Length-bucketed batches of a data set, made ahead by threads.

    Each pass over the loader is one epoch; its order depends only on ``(seed, epoch)``, so a resumed run that sets
    ``epoch`` gets the same batches as an uninterrupted one.

    Args:
        dataset: the data set.
        batch_size: pairs per batch.
        seed: seed of the order.
        shuffle: random order in each epoch; otherwise shortest first, always in the same order.
        labels: include the moments; ``False`` hides them.
        prefetch: number of batches made ahead, each by a thread of its own; 0 makes them in the caller's thread.
        drop_last: leave out batches of fewer pairs than ``batch_size``.
        rank: index of this process among ``ranks``; each takes its part of every batch (:func:`share_of`).
        ranks: number of processes that iterate over the data together.

    Raises:
        ValueError: if a count is out of range, labels are requested from a data set with hidden moments, or a batch has
            fewer pairs than there are ranks.

    Notes:
        The memory of a batch's frames serves a later batch once nothing refers to it: no tensor or view of one, no
        NumPy array, no graph of autograd. An address alone (``data_ptr``) is no reference. At most ``prefetch + 2``
        free blocks are kept, until the pass ends.

    Example:
        >>> from mmda.vmr import load_packed
        >>> data = load_packed("video.npz", "query.npz", "train.jsonl")  # doctest: +SKIP
        >>> for batch in VMRLoader(data, 32, labels=False):  # doctest: +SKIP
        ...     assert batch.windows is None
    """

    def __init__(
        self,
        dataset: VMRDataset,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        labels: bool = True,
        prefetch: int = 1,
        drop_last: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        check_count("VMRLoader", "batch_size", batch_size)
        check_count("VMRLoader", "prefetch", prefetch, at_least=0)
        if labels and dataset.closed:
            raise ValueError("VMRLoader: `labels` must be False for a data set whose moments are hidden, got True")
        self.dataset = dataset if labels else dataset.without_moments()
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.prefetch, self.drop_last = prefetch, drop_last
        #: index of the next epoch, incremented by every pass
        self.epoch = 0
        check_ranks("VMRLoader", len(dataset), batch_size, drop_last, rank, ranks)
        self.rank, self.ranks = rank, ranks
        self._lengths = dataset.lengths

    def __len__(self) -> int:
        """Number of batches per epoch."""
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole + (1 if rest and not self.drop_last else 0)

    def __iter__(self) -> Iterator[VMRBatch]:
        # seeded by (seed, epoch): with seed + epoch, two seeds would share most of their epochs
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % (1 << 63))
        self.epoch += 1
        batches = bucketed_batches(
            self._lengths,
            self.batch_size,
            shuffle=self.shuffle,
            generator=generator,
            drop_last=self.drop_last,
        )
        mine = (share_of(batch, self.rank, self.ranks) for batch in batches)
        memory = _Memory(self.prefetch + 2)  # one per iteration, so that the last batches keep only its memory
        makers = (partial(self._batch, batch, memory) for batch in mine)
        return _ahead(makers, self.prefetch) if self.prefetch else (make() for make in makers)

    def _batch(self, indices: Sequence[int], memory: _Memory) -> VMRBatch:
        return _collate([self.dataset.as_stored(i) for i in indices], memory.empty)


def pad_rows(name: str, rows: Sequence[Tensor], empty: Callable[..., Tensor] = torch.empty) -> tuple[Tensor, Tensor]:
    """Rows ``(t_i, d)`` as ``(b, t, d)`` padded with zeros, and the mask ``(b, t)`` of the valid rows.

    Half precision is widened to float32, in the same pass over memory. ``empty`` gives the memory.
    """
    widths = {row.shape[1] for row in rows}
    if len(widths) > 1:
        raise ValueError(f"collate: `{name}` must have the same width in a batch, got {sorted(widths)}")
    lengths = torch.tensor([len(row) for row in rows])
    dtype = torch.float32 if rows[0].dtype == torch.float16 else rows[0].dtype
    padded = empty(len(rows), int(lengths.max()), widths.pop(), dtype=dtype, device=rows[0].device)
    for place, row in zip(padded, rows):
        place[: len(row)] = row
        place[len(row) :] = 0
    return padded, torch.arange(padded.shape[1]) < lengths.unsqueeze(1)


def pad_windows(rows: Sequence[Sequence[Window]]) -> tuple[Tensor, Tensor]:
    """Moments of each query as ``(b, w, 2)``, float64, and the mask of the valid ones."""
    return pad_rows("windows", [torch.tensor(windows, dtype=torch.float64).view(-1, 2) for windows in rows])


def _ahead(makers: Iterator[Callable[[], VMRBatch]], depth: int) -> Iterator[VMRBatch]:
    """Make the next ``depth`` batches in threads of their own, in order; the threads end with the iteration."""
    pool = ThreadPoolExecutor(depth, thread_name_prefix="mmda-vmr-loader")
    try:
        waiting = deque(pool.submit(make) for make in islice(makers, depth))
        while waiting:
            batch = waiting.popleft().result()
            waiting.extend(pool.submit(make) for make in islice(makers, 1))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)
