"""The global generators of a run: saved, put back, isolated, and refused where the machine is another."""

import random

import numpy as np
import pytest
import torch

from accord.bench import rng
from accord.errors import StoreError


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_a_state_gives_the_same_numbers_again():
    with rng.isolated(3):
        state = rng.get_state()
        first = draw()
        rng.set_state(state)
        assert draw() == first
        rng.seed(3)
        assert draw() == first


def test_what_is_isolated_leaves_the_outside_alone():
    with rng.isolated(1):
        state = rng.get_state()
        expected = draw()
        rng.set_state(state)
        with rng.isolated(2):
            draw()
        assert draw() == expected


def test_a_state_of_more_gpus_is_refused_with_both_ways_to_begin_anew(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with rng.isolated(0):
        state = rng.get_state() | {"cuda": [torch.zeros(16, dtype=torch.uint8)] * 2}
        with pytest.raises(StoreError, match=r"of 2 GPUs, but this machine has 1.*--fresh \(fresh=True\)"):
            rng.set_state(state)
