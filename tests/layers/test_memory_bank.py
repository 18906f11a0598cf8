"""A memory bank compared with a plain list."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from mmda.layers import MemoryBank
from mmda.losses import info_nce_loss

SIZE = 5


def written(slots: list[tuple[int, Tensor] | None], place: int, names: list[int], rows: Tensor) -> int:
    """The expected contents after a push, and the next place."""
    for i, slot in enumerate(slots):
        if slot is not None and slot[0] in names:
            slots[i] = None
    for name, row in zip(names, rows):
        slots[place % SIZE] = (name, row.detach())
        place += 1
    return place


def test_the_loss_is_that_of_the_listed_candidates() -> None:
    """With repeated identities: each anchor with its own rows, the others of the batch and those of the list."""
    generator = torch.Generator().manual_seed(0)
    bank = MemoryBank(SIZE, 3).double()
    slots: list[tuple[int, Tensor] | None] = [None] * SIZE
    place = 0
    for names in ([0, 1, 2], [3, 1, 4], [5, 0, 0], [6, 7, 8], [7, 8, 9]):
        anchor, positive = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64)
        positive.requires_grad_()
        found = bank(positive, torch.tensor(names))
        value = info_nce_loss(
            anchor,
            found.rows,
            temperature=0.5,
            symmetric=False,
            positive_mask=found.positive_mask,
            negative_mask=found.negative_mask,
        )
        losses = []
        for name, row in zip(names, anchor):
            right = [p for other, p in zip(names, positive) if other == name]
            wrong = [p for other, p in zip(names, positive) if other != name]
            wrong += [slot[1] for slot in slots if slot is not None and slot[0] != name]
            chosen = torch.arange(len(right) + len(wrong)) < len(right)
            losses.append(
                info_nce_loss(
                    row.unsqueeze(0),
                    torch.stack([*right, *wrong]),
                    temperature=0.5,
                    symmetric=False,
                    positive_mask=chosen.unsqueeze(0),
                )
            )
        torch.testing.assert_close(value, torch.stack(losses).mean())
        value.backward()
        assert positive.grad.abs().max() > 0
        bank.push(positive, torch.tensor(names))
        place = written(slots, place, names, positive)
        assert bank.held.tolist() == [slot is not None for slot in slots]
    assert any(slot is None for slot in slots)  # the older row of this identity was removed


def test_forward_changes_nothing_and_the_state_is_saved() -> None:
    bank = MemoryBank(4, 2)
    bank.push(torch.ones(3, 2), torch.arange(3))
    before = copy.deepcopy(bank.state_dict())
    bank(torch.zeros(2, 2), torch.arange(2))
    assert all(torch.equal(before[name], kept) for name, kept in bank.state_dict().items())
    other = MemoryBank(4, 2)
    other.load_state_dict(before)
    assert torch.equal(other(torch.zeros(2, 2), torch.arange(2)).rows, bank(torch.zeros(2, 2), torch.arange(2)).rows)


def test_a_push_of_more_rows_than_entries_keeps_the_last() -> None:
    bank = MemoryBank(3, 1)
    bank.push(torch.arange(7.0).unsqueeze(1), torch.arange(7))
    assert sorted(bank.identities.tolist()) == sorted(bank.rows.flatten().tolist()) == [4, 5, 6]
    bank.push(torch.tensor([[9.0]]), torch.tensor([9]))
    assert sorted(bank.identities.tolist()) == [5, 6, 9]  # overwrites the oldest row


def test_errors() -> None:
    bank = MemoryBank(3, 2)
    with pytest.raises(ValueError, match=r"MemoryBank: `positive` must have shape \(samples, 2\), got \(4, 3\)"):
        bank(torch.zeros(4, 3), torch.arange(4))
    with pytest.raises(TypeError, match=r"MemoryBank.push: `identities` must be an integer tensor, got torch.float32"):
        bank.push(torch.zeros(4, 2), torch.zeros(4))
