"""Batches of a split in memory: as many as the length says, every pair once, nothing but shared padding left out."""

from __future__ import annotations

import pytest
import torch

from mmda.vmr import ResidentLoader, VMRBatch, World, simulate


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
