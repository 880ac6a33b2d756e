"""The smoke recipe: two hundred steps, after which the network matches better than at its start."""

import json
from statistics import fmean

import torch

from stereopsis.matching.hitnet import HITNet
from stereopsis.training.loop import train
from stereopsis.training.recipes import RECIPES


def test_the_loss_falls(tmp_path):
    recipe = RECIPES["hitnet.smoke"]
    assert recipe.steps == 200
    torch.manual_seed(recipe.seed)
    train(recipe, HITNet(), tmp_path)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    first, last = ([line[name] for name in ("loss", "epe")] for line in (log[0], log[-1]))
    assert len(log) == 10
    assert last[0] < 0.9 * first[0]
    assert fmean(line["epe"] for line in log[-3:]) < 0.8 * first[1]
