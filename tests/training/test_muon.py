"""Muon: what is orthogonal stays so, and what is not becomes so."""

import pytest
import torch
from torch import nn

from stereopsis.training.muon import Muon, orthogonalized


@pytest.mark.parametrize("shape", [(16, 144), (64, 16), (3, 3), (5, 8, 40)])
def test_singular_values_come_near_one(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-3
    found = torch.linalg.svdvals(orthogonalized(matrix))
    assert found.min() > 0.4
    assert found.max() < 1.3


def test_singular_vectors_stay():
    matrix = torch.randn(6, 20, generator=torch.Generator().manual_seed(1))
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    found = u.mT @ orthogonalized(matrix) @ vt.mT
    assert (found - torch.diag(found.diag())).abs().max() < 1e-5
    assert found.diag().min() > 0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_first_step_does_not_depend_on_the_size_of_the_gradient(scale):
    kernel = nn.Parameter(torch.zeros(8, 4, 3, 3))
    kernel.grad = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(2)) * scale
    Muon([kernel], lr=0.1).step()
    singular = torch.linalg.svdvals(kernel.detach().reshape(8, -1))
    assert singular.min() > 0.04
    assert singular.max() < 0.13


def test_a_tall_matrix_moves_further():
    kernel = nn.Parameter(torch.zeros(64, 4))
    kernel.grad = torch.randn(64, 4, generator=torch.Generator().manual_seed(3))
    Muon([kernel], lr=0.1).step()
    assert torch.linalg.svdvals(kernel.detach()).mean() == pytest.approx(0.4, rel=0.3)


def test_it_solves_a_least_squares_problem():
    generator = torch.Generator().manual_seed(4)
    x, truth = torch.randn(256, 12, generator=generator), torch.randn(12, 5, generator=generator)
    weight = nn.Parameter(torch.zeros(12, 5))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.0)
    losses = []
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        optimizer.zero_grad()
        loss = (x @ (weight - truth)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]


def test_decay_pulls_towards_zero_and_missing_gradients_are_skipped():
    decayed, still = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    decayed.grad = torch.zeros(4, 4)
    Muon([decayed, still], lr=0.5, weight_decay=0.1).step()
    assert torch.allclose(decayed, torch.full((4, 4), 0.95))
    assert torch.equal(still, torch.ones(4, 4))


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="give vectors to AdamW"):
        Muon([nn.Parameter(torch.zeros(4))])


def test_state_survives_saving():
    torch.manual_seed(0)
    runs = []
    for interrupted in (False, True):
        kernel = nn.Parameter(torch.ones(4, 6))
        optimizer = Muon([kernel])
        for step in range(4):
            if interrupted and step == 2:
                saved = optimizer.state_dict()
                optimizer = Muon([kernel])
                optimizer.load_state_dict(saved)
            kernel.grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
            optimizer.step()
        runs.append(kernel.detach().clone())
    assert torch.equal(*runs)
