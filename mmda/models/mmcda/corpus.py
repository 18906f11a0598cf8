"""Retrieval of videos and moments from an encoded corpus."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmda._core.checks import check_count, check_floating, check_mask, check_number, fail, shape_text
from mmda.models.mmcda.localizer import MomentLogits, Spans
from mmda.models.mmcda.model import MMCDA
from mmda.vmr.collation import pad_rows
from mmda.vmr.features import FeatureStore, clip_bounds, pool_clips

#: A video's score is the mean over this many of its best clips.
CLIPS = 5

#: Videos per matrix of frames: large enough for an efficient product, small enough for the cache.
_BLOCK = 256

#: Videos encoded at a time.
_CHUNK = 64

#: Spans decoded per video, as in a table; fewer are taken from these, since decoding may depend on the number.
_SPANS = 5


class Found(NamedTuple):
    """A retrieved video.

    Attributes:
        vid: id of the video.
        score: similarity to the sentence, see :meth:`Corpus.rank`.
        windows: (k, 2), its best moments in seconds, best first.
        scores: (k,), their log-scores, comparable only within the video.
    """

    vid: str
    score: float
    windows: Tensor
    scores: Tensor


class Corpus:
    """Encoded videos, created by :func:`encode_videos`.

    Args:
        model: in ``eval()`` mode.
        vids: ids of the videos.
        lengths: clips of each video.
        blocks: transposed unit rows of the joint space, concatenated over the clips of 256 videos.
        common: amount to subtract from each clip's similarity, concatenated over videos.
        clip_times: start and end of every clip in seconds.

    Shape:
        v videos of t clips in all: lengths ``(v,)``, each block ``(joint, its clips)``, common ``(t,)``,
        clip_times ``(t, 2)``.
    """

    def __init__(
        self,
        model: MMCDA,
        vids: Sequence[str],
        lengths: Tensor,
        blocks: Sequence[Tensor],
        common: Tensor,
        clip_times: Tensor,
    ) -> None:
        self.model, self.vids, self.lengths = model, tuple(vids), lengths
        self.blocks, self.common, self.clip_times = tuple(blocks), common, clip_times
        self._sizes: list[int] = lengths.tolist()
        self._starts: list[int] = (lengths.cumsum(0) - lengths).tolist()
        self._mask = torch.arange(max(self._sizes), device=lengths.device) < lengths.unsqueeze(1)
        self._slots = None if bool(self._mask.all()) else self._mask.flatten().nonzero().squeeze(1)
        self._centres = self._mean_rows()

    def __len__(self) -> int:
        """Number of videos."""
        return len(self.vids)

    def __repr__(self) -> str:
        return f"Corpus({len(self)} videos, {int(self.lengths.sum())} clips)"

    @torch.no_grad()
    def rank(
        self,
        words: Tensor,
        *,
        word_mask: Tensor | None = None,
        top: int = 10,
        spans: int = 1,
        preselect: int | None = None,
    ) -> list[Found]:
        r"""Retrieve the videos most similar to a sentence, with its best moments in each.

        .. math:: score(v) = \frac{1}{k} \sum_{t \in \text{best } k \text{ clips}} (\cos(f_t, q) - h_t), \quad k = 5

        over the clips of v, with :math:`h_t` of :class:`NeighbourScaling` if the model has one. All clips of every
        video are scored. Span scores (votes or logits) are not comparable between videos and are not used.

        Args:
            words: word features of the sentence.
            word_mask: which words are valid; all by default.
            top: maximum number of videos.
            spans: maximum number of moments per video, as in :meth:`MMCDA.predict`.
            preselect: score only this many videos, those whose mean frame has the highest cosine with the sentence.
                Their scores are exact, but a video with a short matching part may be missed.

        Shape:
            ``words`` (l, d_q), ``word_mask`` (l,).

        Returns:
            :class:`Found`, best first; ties in the order of the corpus.

        Raises:
            ValueError: a count below 1, words of another shape or width.
            TypeError: words that are not floating-point, a mask that is not bool.

        Notes:
            O(t d) for t clips, dominated by one pass over all frames. ``preselect`` reads one row per video and the
            frames of the selected ones. Decoding is O(top). 10,000 videos of 64 clips, top 10, one thread of an AMD
            EPYC: 44 ms of CPU time in a linear form (joint width 192), 27 ms with towers (64), with ``preselect=200``
            21 ms and 15 ms.

            On the test queries of QVHighlights' validation captions (1,519 videos, linear form), the correct video is
            among the first ten for 33 % of the sentences; with only the best clip as score for 25 %, with the mean of
            all clips for 22 %.

        Example:
            >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
            >>> from mmda.vmr import ArrayStore
            >>> model = build_mmcda(MMCDAConfig(video_width=6, query_width=4, hidden=8, joint=8)).eval()
            >>> videos = ArrayStore({name: torch.randn(9, 6).numpy() for name in "abc"}, clip_seconds=2.0)
            >>> best = encode_videos(model, videos).rank(torch.randn(3, 4), top=2)
            >>> len(best), best[0].windows.shape, best[0].score >= best[1].score
            (2, torch.Size([1, 2]), True)
        """
        caller = "Corpus.rank"
        for name, count in (("top", top), ("spans", spans)):
            check_count(caller, name, count)
        check_floating(caller, "words", words)
        if words.ndim != 2 or 0 in words.shape:
            fail(caller, "words", "have shape (words, features)", shape_text(words))
        mask = torch.ones(len(words), dtype=torch.bool) if word_mask is None else word_mask
        check_mask(caller, "word_mask", mask, words.shape[:1], device=words.device)
        device = self.common.device
        words, mask = words.to(device).unsqueeze(0), mask.to(device).unsqueeze(0)
        query = self.model.embed_query(words.to(self.common.dtype), mask)[1][0]
        if preselect is None or preselect >= len(self):
            rows = torch.arange(len(self), device=device)
            similarity, common, known = self._all(query)
        else:
            check_count(caller, "preselect", preselect)
            rows = (self._centres @ query).topk(preselect).indices.sort().values
            similarity, common, known = self._some(query, rows.tolist())
        profile = torch.where(known, similarity - common, torch.full_like(similarity, -torch.inf))
        scores, places = _best_means(profile, known, min(top, len(rows)))
        chosen = self._decoded(rows[places], query, similarity[places], common[places], known[places], spans)
        vids = [self.vids[row] for row in rows[places].tolist()]
        return [
            Found(vid, score, windows[keep], values[keep])
            for vid, score, windows, values, keep in zip(vids, scores.tolist(), *chosen)
        ]

    def _all(self, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cosines of all clips, the amounts to subtract, and the mask of valid clips; (v, t) each."""
        similarity = torch.cat([query @ block for block in self.blocks])
        return self._padded(similarity), self._padded(self.common), self._mask

    def _some(self, query: Tensor, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Similarities for some videos, each a slice of its block."""
        found = [query @ self._frames(row).T for row in rows]
        similarity, known = _stacked(found)
        common, _ = _stacked([self.common[self._clips(row)] for row in rows])
        return similarity, common, known

    def _frames(self, row: int) -> Tensor:
        """Joint rows of a video (t, d), as a view."""
        block = row // _BLOCK
        at = self._starts[row] - self._starts[block * _BLOCK]
        return self.blocks[block][:, at : at + self._sizes[row]].T

    def _clips(self, row: int) -> slice:
        return slice(self._starts[row], self._starts[row] + self._sizes[row])

    def _padded(self, flat: Tensor) -> Tensor:
        if self._slots is None:
            return flat.view(self._mask.shape)
        return flat.new_zeros(self._mask.numel()).index_copy_(0, self._slots, flat).view(self._mask.shape)

    def _decoded(self, rows: Tensor, query: Tensor, similarity: Tensor, common: Tensor, known: Tensor, n: int) -> Spans:
        """The moments in these videos, decoded as in :meth:`MMCDA.predict`."""
        longest = int(known.sum(1).max())
        similarity, common, known = (each[:, :longest] for each in (similarity, common, known))
        times = [self.clip_times[self._clips(row)] for row in rows.tolist()]
        clip_times = torch.nn.utils.rnn.pad_sequence(times, batch_first=True)
        heat = similarity / self.model.temperature
        logits: MomentLogits = self.model.localizer(heat, known)
        frames = torch.nn.utils.rnn.pad_sequence([self._frames(row) for row in rows.tolist()], batch_first=True)
        profile = self.model.refined(heat, common, query.expand(len(rows), -1), frames, known)
        spans = self.model.decode(profile, logits, known, clip_times, n=max(n, _SPANS))
        return Spans(spans.windows[:, :n], spans.scores[:, :n], spans.mask[:, :n])

    def _mean_rows(self) -> Tensor:
        """The normalised mean frame of each video."""
        means = []
        for k, block in enumerate(self.blocks):
            sizes = self.lengths[k * _BLOCK : (k + 1) * _BLOCK]
            rows = torch.repeat_interleave(torch.arange(len(sizes), device=block.device), sizes)
            means.append(block.new_zeros(len(sizes), len(block)).index_add_(0, rows, block.T))
        return torch.nn.functional.normalize(torch.cat(means), dim=1)


def _stacked(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rows of different lengths padded with zeros, and the mask of valid entries."""
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    step = torch.arange(int(lengths.max()), device=rows[0].device)
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), step < lengths.unsqueeze(1)


def _best_means(profile: Tensor, known: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Scores and indices of the ``top`` rows with the highest mean of their best entries; ties in order.

    A mean is at most the largest entry, which is cheap to compute, so rows whose largest entry is below the score of
    the ``top``-th best so far are skipped. The result is exact.
    """
    most = profile.amax(1)
    first = most.topk(min(len(most), 4 * top + 64)).indices
    floor = _means(profile, known, first).topk(top).values[-1]
    rows = (most >= floor - 1e-5 * (1 + floor.abs())).nonzero().squeeze(1)  # tolerance for rounding of the mean
    scores, order = _means(profile, known, rows).sort(descending=True, stable=True)
    return scores[:top], rows[order[:top]]


def _means(profile: Tensor, known: Tensor, rows: Tensor) -> Tensor:
    """Mean of the ``CLIPS`` largest entries of these rows, or of all if there are fewer."""
    best = profile[rows].topk(min(CLIPS, profile.shape[1]), dim=1).values
    count = known[rows].sum(1).clamp(max=CLIPS)
    return torch.where(best > -torch.inf, best, torch.zeros_like(best)).sum(1) / count


@torch.no_grad()
def encode_videos(
    model: MMCDA, videos: FeatureStore, *, clip_seconds: float | None = None, max_clips: int | None = None
) -> Corpus:
    """Encode the videos of a store for retrieval.

    Args:
        model: in ``eval()`` mode.
        videos: frame features by id (:func:`mmda.vmr.open_features`, :class:`mmda.vmr.ArrayStore`).
        clip_seconds: length of a clip; that of the store by default.
        max_clips: average-pool longer videos to this many clips, as in the model's training data.

    Returns:
        The encoded videos, on the model's device and in its dtype, in the order of the store.

    Raises:
        ValueError: the length of a clip is unknown or not above 0; features of another width than the model's.
        VMRDataError: features that cannot be read.

    Notes:
        O(t d) memory for t clips of joint width d: 10,000 videos of 64 clips take 0.5 GB at width 192. Encoding needs
        64 videos of similar length in addition.

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
        >>> from mmda.vmr import ArrayStore
        >>> model = build_mmcda(MMCDAConfig(video_width=6, query_width=4, hidden=8, joint=8)).eval()
        >>> encode_videos(model, ArrayStore({name: torch.randn(9, 6).numpy() for name in "abc"}), clip_seconds=2.0)
        Corpus(3 videos, 27 clips)
    """
    seconds = videos.clip_seconds if clip_seconds is None else clip_seconds
    if seconds is None:
        fail("encode_videos", "clip_seconds", "be given for features that do not contain it", None)
    check_number("encode_videos", "clip_seconds", seconds, above=0)
    if max_clips is not None:
        check_count("encode_videos", "max_clips", max_clips)
    vids = tuple(videos.ids)
    blocks, common, times, lengths = [], [], [], []
    for first in range(0, len(vids), _BLOCK):
        read = [_read(videos, vid, seconds, max_clips) for vid in vids[first : first + _BLOCK]]
        frames, taken = _encoded(model, [each for each, _ in read])
        blocks.append(torch.cat(frames).T.contiguous())
        common += taken
        times += [each for _, each in read]
        lengths += [len(each) for each in frames]
    device = blocks[0].device
    return Corpus(
        model, vids, torch.tensor(lengths, device=device), blocks, torch.cat(common), torch.cat(times).to(device)
    )


def _read(videos: FeatureStore, vid: str, seconds: float, max_clips: int | None) -> tuple[Tensor, Tensor]:
    """Frames of a video, and start and end of each clip (t, 2) in float64."""
    array = videos[vid]
    bounds = torch.from_numpy(clip_bounds(len(array), max_clips or len(array))).double() * seconds
    pooled = array if max_clips is None else pool_clips(array, max_clips)
    return torch.from_numpy(pooled.copy()), torch.stack([bounds[:-1], bounds[1:]], 1)


def _encoded(model: MMCDA, videos: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Unit rows of the joint space and amounts to subtract, per video, encoded in batches of similar length."""
    like = next(model.parameters())
    rows: dict[int, Tensor] = {}
    taken: dict[int, Tensor] = {}
    order = sorted(range(len(videos)), key=lambda i: len(videos[i]))
    for start in range(0, len(order), _CHUNK):
        chunk = order[start : start + _CHUNK]
        frames, mask = pad_rows("frames", [videos[i] for i in chunk])
        joint = model.embed_frames(frames.to(like), mask.to(like.device))[1]
        common = joint.new_zeros(joint.shape[:2])
        if model.neighbours is not None:
            common = model.neighbours(joint, model.query_head)
        for k, i in enumerate(chunk):
            rows[i], taken[i] = joint[k, : len(videos[i])], common[k, : len(videos[i])]
    return [rows[i] for i in range(len(videos))], [taken[i] for i in range(len(videos))]
