"""Ranks in chunks: equal to SciPy's, whatever is tied and wherever chunks end."""

import numpy as np
import pytest
from scipy import stats

from medsal.evaluation import ties


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("levels", [1, 2, 5, 10**6])
@pytest.mark.parametrize("count", [1, 2, 6, 41])
def test_ranks_are_scipys(monkeypatch, dtype, chunk, levels, count):
    monkeypatch.setattr(ties, "CHUNK", chunk)
    values = (np.random.default_rng(levels + count).integers(-levels, levels, count) / 3).astype(dtype)
    assert (ties.ranks(values) == 2 * stats.rankdata(values)).all()
    assert (ties.counts_at_least(values) == [(values >= value).sum() for value in values]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_two_zeros_are_one_and_small_numbers_are_told_apart(dtype):
    tiny = np.nextafter(dtype(0), dtype(1))
    values = np.array([0.0, -0.0, tiny, -tiny, -1, np.finfo(dtype).max, np.finfo(dtype).min], dtype=dtype)
    assert (ties.ranks(values) == 2 * stats.rankdata(values)).all()
