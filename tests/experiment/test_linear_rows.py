"""The linear form in a table: the data that each row may read, and the default plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmda.models.mmcda.experiment import Draws, Place, Plan, Problem, plan_jobs, train_row
from mmda.models.mmcda.experiment.jobs import Job
from mmda.models.mmcda.experiment.rows import CONTROL, FULL, SOURCE_ONLY

WORLD = Problem("small", world="language", videos=60)


def job(row: str, **changes: object) -> Job:
    (made,) = plan_jobs(WORLD, Plan(rows=(row,), form="linear", smoke=True, **changes))  # type: ignore[arg-type]
    return made


def test_a_linear_row_is_left_at_its_start_and_trained_on_request(tmp_path: Path) -> None:
    data = Draws()
    still, moved = train_row(job(FULL), data), train_row(job(FULL, epochs=1, output=tmp_path), data)
    assert still.progress.step == 0
    assert moved.progress.step > 0
    change = [value for name, value in still.model.named_parameters() if "change" in name]
    assert change
    assert not any(value.any() for value in change)
    assert any(value.any() for name, value in moved.model.named_parameters() if "change" in name)
    assert set(job(FULL, epochs=1).weights) == {
        "frame_query",
        "cross_modal_source",
        "cross_modal",
        "frame_query_target",
    }


def test_rows_without_pairs_do_not_depend_on_them() -> None:
    data = Draws()
    source, target = data.load(WORLD, 0)
    for row, reads in ((SOURCE_ONLY, False), ("(ii)", True), (FULL, True)):
        matrices = []
        for words in (None, 1):
            pairs = dict(target.pairs)
            if words is not None:
                for split in ("train", "val"):
                    pairs[split] = replace(pairs[split], words=pairs[split].words.roll(1, 0))
            altered = replace(target, pairs=pairs)
            made = Draws()
            made._kept[(WORLD, 0)] = (source, altered)
            matrices.append(train_row(job(row), made).model.video_head.matrix)
        assert torch.equal(*matrices) is not reads


def test_real_data_in_two_spaces_gets_the_linear_form(tmp_path: Path) -> None:
    real = Problem("a to b", source=Place("a"), target=Place("b"))
    assert Plan().form_of(real) == "linear"
    assert Plan(shared_space=True).form_of(real) == Plan().form_of(WORLD) == "towers"
    assert Plan().trains_on_val(real)
    assert not Plan(train_on_val=False).trains_on_val(real)
    assert not Plan().trains_on_val(WORLD)


@pytest.mark.parametrize(("epochs", "there"), [(None, False), (2, True)])
def test_rows_that_would_be_equal_are_planned_only_where_something_is_trained(epochs: int | None, there: bool) -> None:
    jobs = plan_jobs(WORLD, Plan(form="linear", ablation=True, epochs=epochs))
    names = {each.row.name for each in jobs}
    assert (CONTROL in names) is there
    assert "(iii) specific alignment" in names  # pools frames in another way than (ii)
    assert "(ii) cross-modal alignment" in names
