"""Batches of a split in memory: their number, every pair once, and only padding common to all rows cut."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from mmda.vmr import (
    ArrayStore,
    ResidentLoader,
    ResidentSplit,
    VMRBatch,
    VMRDataset,
    VMRQuery,
    World,
    collate,
    simulate,
    validate_queries,
)


@pytest.fixture(scope="module")
def split() -> VMRBatch:
    return simulate(World(videos=5, test_videos=1)).source_train


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [2, 5, 6])
def test_a_pass_has_the_length_it_says(split: VMRBatch, batch_size: int, drop_last: bool, shuffle: bool) -> None:
    loader = ResidentLoader(split, batch_size, shuffle=shuffle, drop_last=drop_last)
    batches = list(loader)
    assert len(batches) == len(loader)
    names = [qid for batch in batches for qid in batch.qids]
    assert len(set(names)) == len(names)
    if drop_last:
        assert all(len(batch) == batch_size for batch in batches)
    else:
        assert sorted(names) == sorted(split.qids)


def test_a_batch_is_cut_to_its_longest_rows(split: VMRBatch) -> None:
    for batch in ResidentLoader(split, 2):
        assert batch.frame_mask.any(0).all()
        assert batch.word_mask.any(0).all()
        for row, qid in enumerate(batch.qids):
            at = split.qids.index(qid)
            assert torch.equal(batch.frames[row][batch.frame_mask[row]], split.frames[at][split.frame_mask[at]])


def dataset(name: str, videos: int, queries: int) -> VMRDataset:
    """Several queries a video, in mixed order, of different lengths, words and numbers of moments."""
    rng = np.random.default_rng(0)
    clips = {f"{name}v{v}": rng.standard_normal((3 + 2 * v, 4)) for v in range(videos)}
    rows = [
        VMRQuery(f"{name}q{k}", f"{name}v{k % videos}", f"text {k // 2}", 9.1, ((0.1, 1.0), (2.0, 3.3))[: k % 3])
        for k in range(queries)
    ]
    words = {row.qid: rng.standard_normal((1 + k % 4, 3)) for k, row in enumerate(rows)}
    return VMRDataset(validate_queries(rows), ArrayStore(clips), ArrayStore(words))


def same(one: VMRBatch, two: VMRBatch) -> None:
    for field in fields(VMRBatch):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype, field.name
            assert torch.equal(a, b), field.name
        else:
            assert a == b, field.name


class TestResidentSplit:
    data = dataset("a", 4, 17)
    split = ResidentSplit.from_dataset(data)
    padded = collate(list(data))

    def test_frames_are_held_once_a_video(self) -> None:
        assert self.split.frames.shape == (4, 9, 4)
        assert self.padded.frames.shape == (17, 9, 4)
        assert len(self.split) == 17

    def test_all_pairs_are_the_collated_batch(self) -> None:
        same(self.split.slice(range(17)), self.padded)
        same(self.split.slice(torch.tensor([5, 2, 5])), self.padded.slice([5, 2, 5]))
        same(ResidentSplit.from_batch(self.padded).slice([3, 16]), self.padded.slice([3, 16]))

    @pytest.mark.parametrize("shuffle", [True, False])
    @pytest.mark.parametrize("labels", [True, False])
    def test_batches_are_those_of_the_collated_batch(self, shuffle: bool, labels: bool) -> None:
        one, two = (
            ResidentLoader(split, 5, seed=3, shuffle=shuffle, labels=labels) for split in (self.split, self.padded)
        )
        for _ in range(2):
            batches = list(zip(one, two, strict=True))
            assert len(batches) == 4
            for a, b in batches:
                same(a, b)
                assert (a.windows is None) is not labels

    def test_closed_moments_stay_closed(self) -> None:
        closed = ResidentSplit.from_dataset(self.data.without_moments())
        assert closed.windows is closed.window_mask is None
        same(closed.slice([1]), self.split.without_moments().slice([1]))
        with pytest.raises(ValueError, match="ResidentLoader: `labels` must be False"):
            ResidentLoader(closed, 2)

    def test_a_part_of_a_data_set_is_numbered_by_itself(self) -> None:
        part = self.data.select(["av3", "av1"])
        same(ResidentSplit.from_dataset(part).slice(range(len(part))), collate(list(part)))

    def test_some_pairs_are_a_split_that_shares_the_frames(self) -> None:
        some = self.split.select([8, 0, 3])
        assert some.frames is self.split.frames
        same(some.slice(range(3)), self.padded.slice([8, 0, 3]))
        same(some.slice([2]), self.padded.slice([3]))
        assert self.split.without_moments().select([1]).windows is None

    def test_joined_splits_share_no_index(self) -> None:
        other = dataset("b", 2, 5)
        both = self.split.join(ResidentSplit.from_dataset(other))
        assert (len(both), len(both.frames)) == (22, 6)
        assert both.qids == self.split.qids + tuple(query.qid for query in other.queries)
        for row, example in enumerate([*self.data, *other]):
            batch = both.slice([row])
            assert torch.equal(batch.frames[batch.frame_mask], example.frames)
            assert torch.equal(batch.words[batch.word_mask], example.words)
            assert torch.equal(batch.clip_times[batch.frame_mask], example.clip_times)
            assert batch.windows is not None
            assert batch.window_mask is not None
            assert [tuple(window) for window in batch.windows[batch.window_mask].tolist()] == list(
                example.windows or ()
            )
        assert not set(both.video_index[:17].tolist()) & set(both.video_index[17:].tolist())
        assert not set(both.text_index[:17].tolist()) & set(both.text_index[17:].tolist())
        closed = self.split.without_moments()
        assert closed.join(closed).windows is None
        with pytest.raises(ValueError, match="`other` must have moments if and only if this split has"):
            self.split.join(closed)
        with pytest.raises(ValueError, match="`other` must have words of width 3, got 1"):
            self.split.join(replace(self.split, words=self.split.words[..., :1]))

    def test_what_does_not_fit_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"`frame_row` must lie in the 4 rows of `frames`, got 1 to 4"):
            replace(self.split, frame_row=self.split.frame_row + 1)
        with pytest.raises(ValueError, match=r"`clip_times` must have shape \(4, 9, 2\)"):
            replace(self.split, clip_times=self.split.clip_times[:1])
        with pytest.raises(ValueError, match=r"`duration` must have shape \(17,\)"):
            replace(self.split, duration=self.split.duration[:1])
