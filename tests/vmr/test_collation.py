"""Batches: every index once, little padding, exact contents, and an order set by seed and epoch."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmda.vmr import (
    ArrayStore,
    VMRBatch,
    VMRDataset,
    VMRExample,
    VMRLoader,
    VMRQuery,
    bucketed_batches,
    collate,
    pack_features,
    validate_queries,
)
from mmda.vmr.blind import whole_video
from mmda.vmr.evaluation import evaluate, evaluate_windows
from mmda.vmr.features import MappedStore


@given(
    lengths=st.lists(st.integers(1, 50), max_size=120),
    batch_size=st.integers(1, 9),
    pool=st.integers(1, 4),
    seed=st.integers(0, 9),
    shuffle=st.booleans(),
)
def test_every_index_once(lengths: list[int], batch_size: int, pool: int, seed: int, shuffle: bool) -> None:
    batches = bucketed_batches(lengths, batch_size, shuffle=shuffle, seed=seed, pool=pool)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // batch_size)
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    full = bucketed_batches(lengths, batch_size, shuffle=shuffle, seed=seed, pool=pool, drop_last=True)
    assert full == [batch for batch in batches if len(batch) == batch_size]


class TestBuckets:
    lengths = torch.randint(10, 200, (1000,), generator=torch.Generator().manual_seed(0)).tolist()

    def padded_share(self, batches: list[list[int]]) -> float:
        held = sum(len(batch) * max(self.lengths[i] for i in batch) for batch in batches)
        return 1 - sum(self.lengths) / held

    def test_pad_little(self) -> None:
        plain = [list(range(i, min(i + 20, 1000))) for i in range(0, 1000, 20)]
        assert self.padded_share(plain) > 0.4
        assert self.padded_share(bucketed_batches(self.lengths, 20)) < 0.05
        assert self.padded_share(bucketed_batches(self.lengths, 20, shuffle=False)) < 0.05

    def test_order_is_the_seed(self) -> None:
        assert bucketed_batches(self.lengths, 20, seed=1) == bucketed_batches(self.lengths, 20, seed=1)
        assert bucketed_batches(self.lengths, 20, seed=1) != bucketed_batches(self.lengths, 20, seed=2)
        drawn = torch.Generator().manual_seed(1)
        first = bucketed_batches(self.lengths, 20, generator=drawn)
        assert first == bucketed_batches(self.lengths, 20, seed=1)
        assert bucketed_batches(self.lengths, 20, generator=drawn) != first

    def test_the_short_batch_is_of_any_length(self) -> None:
        lengths = list(range(41))
        short = {tuple(b) for s in range(60) for b in bucketed_batches(lengths, 10, seed=s) if len(b) == 1}
        assert short == {(0,), (10,), (20,), (30,), (40,)}

    def test_global_randomness_is_untouched(self) -> None:
        before = torch.get_rng_state()
        bucketed_batches(self.lengths, 20)
        assert torch.equal(before, torch.get_rng_state())

    def test_counts(self) -> None:
        with pytest.raises(ValueError, match="bucketed_batches: `batch_size` must be an integer >= 1, got 0"):
            bucketed_batches([1], 0)


def example(name: str, t: int, words: int, windows: tuple[tuple[float, float], ...] | None) -> VMRExample:
    return VMRExample(
        qid=name,
        vid=name,
        text=name,
        frames=torch.full((t, 3), float(t)),
        words=torch.full((words, 2), float(words)),
        clip_times=torch.stack([torch.arange(t), torch.arange(t) + 1], dim=1).float(),
        duration=float(t),
        windows=windows,
        video_index=t,
        text_index=words,
    )


class TestTimesAreExact:
    """Ties on IoU thresholds are common where annotators and clips share a grid: a batch must not round them."""

    notes = validate_queries(
        VMRQuery(f"q{k}", f"v{k}", "x", k / 10, ((0.0, (0.3, 0.5, 0.7)[k % 3] * k / 10),)) for k in range(1, 301)
    )
    data = VMRDataset(
        notes, ArrayStore({vid: np.ones((10, 2)) for vid in notes.vids}), ArrayStore({q.qid: np.ones(2) for q in notes})
    )

    def test_batches_evaluate_as_the_annotations_do(self) -> None:
        batch = collate(list(self.data))
        assert batch.windows is not None
        assert batch.window_mask is not None
        copied = [
            replace(query, duration=float(d), windows=tuple((float(s), float(e)) for s, e in w[m]))
            for query, d, w, m in zip(self.notes, batch.duration, batch.windows, batch.window_mask)
        ]
        assert copied == list(self.notes)
        spans = whole_video(copied)
        exact = evaluate(whole_video(self.notes), self.notes, n=(1,))
        rounded = evaluate_windows(spans, batch.windows, window_mask=batch.window_mask, duration=batch.duration, n=(1,))
        np.testing.assert_array_equal(rounded.hits, exact.hits)
        np.testing.assert_array_equal(rounded.ious, exact.ious)
        assert exact.as_dict() == pytest.approx({**dict(zip(exact.metrics, (1.0, 2 / 3, 1 / 3))), "mIoU": 0.5})

    def test_spans_of_clips_hit_what_they_tie_with(self) -> None:
        batch = collate(list(self.data))
        assert batch.windows is not None
        spans = torch.stack([batch.clip_times[:, 0, 0], batch.clip_times[:, 9, 1]], dim=1)
        result = evaluate_windows(spans, batch.windows, duration=batch.duration, n=(1,))
        assert result["R@1, IoU=0.7"] == pytest.approx(1 / 3)

    def test_a_device_without_float64_gets_float32(self, monkeypatch: pytest.MonkeyPatch) -> None:
        moved: list[torch.dtype] = []
        real = torch.Tensor.to
        monkeypatch.setattr(
            torch.Tensor, "to", lambda tensor, *_, **__: moved.append(tensor.dtype) or real(tensor, "cpu")
        )
        collate([self.data[0]]).to("mps")
        assert torch.float64 not in moved
        assert torch.float32 in moved


class TestCollate:
    def test_contents(self) -> None:
        batch = collate([example("a", 2, 3, ((0.0, 1.0), (1.0, 2.0))), example("b", 4, 1, ())])
        assert batch.frames[0].tolist() == [[2.0] * 3] * 2 + [[0.0] * 3] * 2
        assert batch.frame_mask.tolist() == [[True, True, False, False], [True] * 4]
        assert batch.words[1].tolist() == [[1.0] * 2, [0.0] * 2, [0.0] * 2]
        assert batch.word_mask.tolist() == [[True] * 3, [True, False, False]]
        assert batch.clip_times[0].tolist() == [[0, 1], [1, 2], [0, 0], [0, 0]]
        assert batch.duration.tolist() == [2.0, 4.0]
        assert batch.windows is not None
        assert batch.windows.tolist() == [[[0.0, 1.0], [1.0, 2.0]], [[0.0, 0.0], [0.0, 0.0]]]
        assert batch.window_mask is not None
        assert batch.window_mask.tolist() == [[True, True], [False, False]]
        assert batch.video_index.tolist() == [2, 4]
        assert batch.text_index.tolist() == [3, 1]
        assert batch.qids == ("a", "b")
        assert batch.video_index.dtype == torch.long

    def test_no_query_of_the_batch_has_a_moment(self) -> None:
        batch = collate([example("a", 2, 3, ())])
        assert batch.windows is not None
        assert batch.windows.shape == (1, 0, 2)

    def test_refuses(self) -> None:
        with pytest.raises(ValueError, match="at least one example"):
            collate([])
        with pytest.raises(ValueError, match="all have their moments or all have them hidden"):
            collate([example("a", 2, 3, ()), example("b", 2, 3, None)])
        wide = VMRExample(**{**vars(example("c", 2, 3, ())), "frames": torch.ones(2, 5)})
        with pytest.raises(ValueError, match=r"`frames` must have the same width in a batch, got \[3, 5\]"):
            collate([example("a", 2, 3, ()), wide])


class TestBatch:
    batch = collate([example("a", 2, 3, ((0.0, 1.0),)), example("b", 4, 1, ((1.0, 2.0),))])

    def test_views(self) -> None:
        assert len(self.batch) == 2
        part = self.batch.slice(torch.tensor([1, 0, 1]))
        assert part.qids == ("b", "a", "b")
        assert torch.equal(part.frames[1], self.batch.frames[0])
        closed = self.batch.without_moments()
        assert closed.windows is None
        assert closed.window_mask is None
        assert closed.slice([0]).windows is None
        moved = self.batch.to("meta")
        assert {value.device.type for value in vars(moved).values() if isinstance(value, torch.Tensor)} == {"meta"}

    @pytest.mark.parametrize(
        ("field", "value", "error", "message"),
        [
            ("frames", torch.ones(2, 4), ValueError, r"VMRBatch: `frames` must have shape \(b, t, d_v\), got \(2, 4\)"),
            ("frame_mask", torch.ones(2, 4), TypeError, "VMRBatch: `frame_mask` must be a bool tensor"),
            ("words", torch.ones(3, 3, 2), ValueError, r"`words` must have as many rows as `frames` \(2\)"),
            ("clip_times", torch.ones(2, 3, 2), ValueError, r"`clip_times` must have shape \(2, 4, 2\)"),
            ("windows", None, ValueError, "`window_mask` must be given exactly where `windows` is"),
            ("windows", torch.ones(2, 1, 3), ValueError, r"`windows` must have shape \(2, w, 2\)"),
            ("qids", ("a",), ValueError, r"`qids` must name every row \(2\), got 1"),
        ],
    )
    def test_checks(self, field: str, value: object, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            VMRBatch(**{**vars(self.batch), field: value})


@pytest.fixture
def data() -> VMRDataset:
    rng = np.random.default_rng(0)
    vids = [f"v{k}" for k in range(12)]
    queries = [VMRQuery(f"q{k}", vids[k % 12], f"text {k}", 9.0, ((1.0, 2.0),)) for k in range(25)]
    video = ArrayStore({vid: rng.standard_normal((3 + k, 4)) for k, vid in enumerate(vids)})
    query = ArrayStore({q.qid: rng.standard_normal((2, 5)) for q in queries})
    return VMRDataset(validate_queries(queries), video, query)


def names(batches: Iterator[VMRBatch]) -> list[tuple[str, ...]]:
    return [batch.qids for batch in batches]


class TestLoader:
    def test_a_pass_covers_the_data(self, data: VMRDataset) -> None:
        loader = VMRLoader(data, 4)
        seen = names(iter(loader))
        assert len(seen) == len(loader) == 7
        assert sorted(q for batch in seen for q in batch) == sorted(q.qid for q in data.queries)
        assert len(VMRLoader(data, 4, drop_last=True)) == len(names(iter(VMRLoader(data, 4, drop_last=True)))) == 6

    @pytest.mark.parametrize("threads", [1, 2, 5, 20])
    def test_threads_change_nothing(self, data: VMRDataset, threads: int) -> None:
        alone, ahead = (list(VMRLoader(data, 4, seed=3, prefetch=prefetch)) for prefetch in (0, threads))
        assert names(iter(alone)) == names(iter(ahead))
        assert all(torch.equal(one.frames, two.frames) for one, two in zip(alone, ahead))

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    @pytest.mark.parametrize("max_clips", [None, 2])
    def test_pages_of_a_packed_folder_are_what_the_example_holds(
        self, data: VMRDataset, tmp_path: Path, dtype: Literal["float16", "float32"], max_clips: int | None
    ) -> None:
        store = ArrayStore({vid: data.frames(vid).numpy() for vid in data.vids})
        words = ArrayStore({query.qid: data.words(query.qid).numpy() for query in data.queries})
        packed = pack_features(store, tmp_path / "packed", dtype=dtype)
        read = VMRDataset(data.annotations, packed, words, max_clips=max_clips, in_memory=False)
        for batch in VMRLoader(read, 4, prefetch=2):
            for qid, frames, mask in zip(batch.qids, batch.frames, batch.frame_mask):
                index = [query.qid for query in read.queries].index(qid)
                assert torch.equal(frames[mask], read[index].frames)
                assert not frames[~mask].any()
            assert batch.frames.dtype == torch.float32
        assert (read.as_stored(0).frames.dtype == torch.float16) == (dtype == "float16" and max_clips is None)

    def test_pages_are_read_without_a_copy(self, tmp_path: Path) -> None:
        packed = pack_features(ArrayStore({"a": np.ones((4, 3)), "b": np.ones((5, 3))}), tmp_path / "packed")
        assert isinstance(packed, MappedStore)
        one, two = packed.pages("a"), packed.pages("b")
        assert two.data_ptr() - one.data_ptr() == 4 * 3 * 2
        again = pickle.loads(pickle.dumps(packed))
        del packed
        assert torch.equal(one, again.pages("a"))  # the file stays mapped for as long as the rows are held

    @pytest.mark.parametrize("prefetch", [0, 3])
    def test_what_the_user_holds_stays(self, data: VMRDataset, prefetch: int) -> None:
        """A batch's memory is reused only when no batch, view, NumPy array or saved tensor refers to it."""
        expected = {batch.qids: batch.frames.clone() for batch in VMRLoader(data, 4, seed=3, prefetch=0)}
        weight = torch.ones((), requires_grad=True)
        kept: dict[tuple[str, ...], Any] = {}
        for number, batch in enumerate(VMRLoader(data, 4, seed=3, prefetch=prefetch)):
            loss = (weight * batch.frames).sum()
            kept[batch.qids] = (batch, batch.frames[:, 1:], batch.frames.numpy(), loss)[number % 4]
        del batch, loss
        batches, views, arrays, losses = ([(q, kept[q]) for q in list(kept)[start::4]] for start in range(4))
        assert len(kept) == 7
        assert all(torch.equal(batch.frames, expected[qids]) for qids, batch in batches)
        assert all(torch.equal(view, expected[qids][:, 1:]) for qids, view in views)
        assert all(np.array_equal(array, expected[qids].numpy()) for qids, array in arrays)
        assert all(torch.equal(torch.autograd.grad(loss, weight)[0], expected[qids].sum()) for qids, loss in losses)

    def test_memory_is_used_again(self) -> None:
        notes = validate_queries([VMRQuery(f"q{k}", "v", f"text {k}", 9.0, ((1.0, 2.0),)) for k in range(12)])
        data = VMRDataset(
            notes, ArrayStore({"v": np.ones((5, 3))}), ArrayStore({q.qid: np.ones((2, 5)) for q in notes})
        )
        places = [batch.frames.data_ptr() for batch in VMRLoader(data, 1, prefetch=0)]
        assert len(places) == 12
        assert len(set(places)) <= 2  # this one, and the one that the loop holds while the next is made
        assert all(place % 64 == 0 for place in places)

    def test_order_is_seed_and_epoch(self, data: VMRDataset) -> None:
        loader = VMRLoader(data, 4, seed=3)
        first, second = names(iter(loader)), names(iter(loader))
        assert first != second
        resumed = VMRLoader(data, 4, seed=3)
        resumed.epoch = 1
        assert names(iter(resumed)) == second
        assert names(iter(VMRLoader(data, 4, seed=4))) != first
        still = VMRLoader(data, 4, shuffle=False)
        assert names(iter(still)) == names(iter(still))

    def test_without_labels_moments_are_out_of_reach(self, data: VMRDataset) -> None:
        loader = VMRLoader(data, 4, labels=False)
        assert loader.dataset.closed
        assert all(batch.windows is None and batch.window_mask is None for batch in loader)
        with pytest.raises(ValueError, match="`labels` must be False for a data set whose moments are hidden"):
            VMRLoader(data.without_moments(), 4)

    def test_without_labels_never_reads_a_moment(self, data: VMRDataset, monkeypatch: pytest.MonkeyPatch) -> None:
        """Reading moments after construction would raise; the loader does not read them."""

        def refuse(query: VMRQuery) -> None:
            raise AssertionError("read a moment")

        closed = data.without_moments()
        monkeypatch.setattr(type(closed.queries[0]), "windows", property(refuse))
        assert len(names(iter(VMRLoader(closed, 4, labels=False)))) == 7

    def test_stopping_early_ends_the_thread(self, data: VMRDataset) -> None:
        before = threading.active_count()
        batches = iter(VMRLoader(data, 2, prefetch=1))
        next(batches)
        assert threading.active_count() == before + 1
        batches.close()  # type: ignore[attr-defined]
        assert threading.active_count() == before

    def test_an_error_in_the_thread_reaches_the_reader(self, data: VMRDataset, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(dataset: VMRDataset, index: int) -> VMRExample:
            raise OSError("disk gone")

        monkeypatch.setattr(VMRDataset, "as_stored", broken)
        with pytest.raises(OSError, match="disk gone"):
            names(iter(VMRLoader(data, 4)))
