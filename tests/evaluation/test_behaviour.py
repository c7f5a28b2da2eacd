"""What is read piece by piece is scored as a whole."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from eddycast.evaluation.behaviour import Behaviour


@pytest.mark.parametrize("cuts", [(0, 10), (0, 4, 5, 10), (0, 1, 9, 10)])
def test_rates_of_change_join_over_pieces_and_leave_out_members_that_are_lost(cuts):
    generator = torch.Generator().manual_seed(0)
    ensemble, truth = (torch.randn(*shape, generator=generator).double() for shape in ((4, 10, 2, 8), (10, 2, 8)))
    finite = torch.rand(4, 10, 2, generator=generator) > 0.1
    ensemble = torch.where(finite[..., None], ensemble, torch.nan)
    found = Behaviour((1, 10, 2), torch.ones(8), torch.zeros(2, dtype=torch.float64))
    for start, stop in pairwise(cuts):
        part = slice(start, stop)
        found.add(0, part, ensemble[:, part], truth[part], finite[:, part])
    moved = ensemble.diff(dim=1).abs().mean(dim=-1)
    torch.testing.assert_close(found.change_member[0, 1:], moved.nanmean(dim=0))
    torch.testing.assert_close(found.change_truth[0, 1:], truth.diff(dim=0).abs().mean(dim=-1))
    torch.testing.assert_close(found.amplitude_member[0], ensemble.square().mean(dim=-1).nanmean(dim=0))
    assert found.change_member[0, 0].isnan().all() and found.change_truth[0, 0].isnan().all()
