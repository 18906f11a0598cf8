"""The input of a moment retrieval model: a padded batch of (video, query) pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmda._core.checks import check_floating, check_mask, fail, shape_text


@dataclass(frozen=True)
class VMRBatch:
    """A padded batch of (video, query) pairs, with or without their moments.

    Masks are bool, True = keep. Padding may hold any values, and results must not depend on it. The readers of this
    library give times (``clip_times``, ``duration``, ``windows``) in float64, because a temporal IoU of exactly 0.5 is
    common on a grid of clips and float32 rounding would decide it.

    Args:
        frames: frame (clip) features.
        frame_mask: which frames are valid.
        words: word features; a sentence-level feature is one word.
        word_mask: which words are valid.
        clip_times: start and end of every clip in seconds.
        duration: length of every video in seconds.
        windows: the moments in seconds, one or several per query; ``None`` if they are hidden or unknown.
        window_mask: which windows are valid; ``None`` if and only if ``windows`` is.
        video_index: rows of the same video share one index.
        text_index: rows with the same query text share one index.
        qids: the query id of every row.

    Shape:
        frames ``(b, t, d_v)``, frame_mask ``(b, t)``, words ``(b, l, d_q)``, word_mask ``(b, l)``, clip_times
        ``(b, t, 2)``, duration ``(b,)``, windows ``(b, w, 2)``, window_mask ``(b, w)``, video_index and
        text_index ``(b,)``, qids ``b`` strings.

    Raises:
        ValueError: if a shape does not fit the others, or only one of ``windows`` and ``window_mask`` is given.
        TypeError: if a mask is not bool or features are not floating-point.

    Example:
        >>> import torch
        >>> batch = VMRBatch(
        ...     frames=torch.zeros(2, 4, 8), frame_mask=torch.ones(2, 4, dtype=torch.bool),
        ...     words=torch.zeros(2, 3, 5), word_mask=torch.ones(2, 3, dtype=torch.bool),
        ...     clip_times=torch.zeros(2, 4, 2), duration=torch.tensor([8.0, 8.0]),
        ...     windows=torch.tensor([[[0.0, 2.0]], [[4.0, 8.0]]]), window_mask=torch.ones(2, 1, dtype=torch.bool),
        ...     video_index=torch.tensor([0, 0]), text_index=torch.tensor([0, 1]), qids=("a", "b"),
        ... )
        >>> len(batch), batch.without_moments().windows, batch.slice([1]).qids
        (2, None, ('b',))
    """

    frames: Tensor
    frame_mask: Tensor
    words: Tensor
    word_mask: Tensor
    clip_times: Tensor
    duration: Tensor
    windows: Tensor | None
    window_mask: Tensor | None
    video_index: Tensor
    text_index: Tensor
    qids: tuple[str, ...]

    def __post_init__(self) -> None:
        caller = "VMRBatch"
        for name in ("frames", "words", "clip_times", "duration"):
            check_floating(caller, name, getattr(self, name))
        for name, axes in (("frames", "(b, t, d_v)"), ("words", "(b, l, d_q)")):
            if getattr(self, name).ndim != 3:
                fail(caller, name, f"have shape {axes}", shape_text(getattr(self, name)))
        b, t, _ = self.frames.shape
        if self.words.shape[0] != b:
            fail(caller, "words", f"have as many rows as `frames` ({b})", shape_text(self.words))
        check_mask(caller, "frame_mask", self.frame_mask, (b, t), device=self.frames.device)
        check_mask(caller, "word_mask", self.word_mask, (b, self.words.shape[1]), device=self.words.device)
        shapes = {"clip_times": (b, t, 2), "duration": (b,), "video_index": (b,), "text_index": (b,)}
        for name, shape in shapes.items():
            if tuple(getattr(self, name).shape) != shape:
                fail(caller, name, f"have shape {shape}", shape_text(getattr(self, name)))
        if (self.windows is None) != (self.window_mask is None):
            fail(caller, "window_mask", "be given exactly where `windows` is", "only one of the two")
        if self.windows is not None and self.window_mask is not None:
            check_floating(caller, "windows", self.windows)
            if self.windows.ndim != 3 or self.windows.shape[0] != b or self.windows.shape[2] != 2:
                fail(caller, "windows", f"have shape ({b}, w, 2)", shape_text(self.windows))
            check_mask(caller, "window_mask", self.window_mask, self.windows.shape[:2], device=self.windows.device)
        if len(self.qids) != b:
            fail(caller, "qids", f"name every row ({b})", len(self.qids))

    def __len__(self) -> int:
        """Number of (video, query) pairs."""
        return len(self.qids)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> VMRBatch:
        """Move every tensor to ``device``; on ``mps``, which has no float64, times become float32."""
        narrow = torch.device(device).type == "mps"

        def move(tensor: Tensor) -> Tensor:
            tensor = tensor.float() if narrow and tensor.dtype == torch.float64 else tensor
            return tensor.to(device, non_blocking=non_blocking)

        return self._map(move, self.qids)

    def pin_memory(self) -> VMRBatch:
        """Copy to page-locked memory, so that ``to(device, non_blocking=True)`` is asynchronous."""
        return self._map(lambda tensor: tensor.pin_memory(), self.qids)

    def without_moments(self) -> VMRBatch:
        """The batch without ``windows`` and ``window_mask``, for the target domain; everything else is shared."""
        return replace(self, windows=None, window_mask=None)

    def slice(self, indices: Sequence[int] | Tensor) -> VMRBatch:
        """The rows at ``indices``, in that order, with the same padding; ``video_index`` keeps its values."""
        rows = [int(i) for i in indices]
        index = torch.tensor(rows, dtype=torch.long, device=self.frames.device)
        return self._map(lambda tensor: tensor.index_select(0, index), tuple(self.qids[i] for i in rows))

    def _map(self, change: Callable[[Tensor], Tensor], qids: tuple[str, ...]) -> VMRBatch:
        def apply(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else change(tensor)

        return VMRBatch(
            frames=change(self.frames),
            frame_mask=change(self.frame_mask),
            words=change(self.words),
            word_mask=change(self.word_mask),
            clip_times=change(self.clip_times),
            duration=change(self.duration),
            windows=apply(self.windows),
            window_mask=apply(self.window_mask),
            video_index=change(self.video_index),
            text_index=change(self.text_index),
            qids=qids,
        )
