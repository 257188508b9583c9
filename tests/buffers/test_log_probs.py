"""`store_log_probs`: one number more for each transition, wherever the buffer wraps around, and in its files."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.support.windows import SPACES, STORAGES, make

N_ENVS, CAPACITY, N_STEPS = 2, 7, 17


@pytest.mark.parametrize("storage", STORAGES)
def test_each_transition_keeps_its_own(storage: str, tmp_path: Path) -> None:
    buffer = make(storage, "vector", N_ENVS * CAPACITY, N_ENVS, tmp_path, store_log_probs=True)
    plain = make(storage, "vector", N_ENVS * CAPACITY, N_ENVS, tmp_path)
    assert not buffer.log_probs.any() and not hasattr(plain, "log_probs")
    # Each step of each environment has a number of its own, and so has its reward
    for step in range(N_STEPS):
        obs = np.full((N_ENVS, *SPACES["vector"].shape), step, np.float32)
        log_probs = [-(10.0 * step + env) for env in range(N_ENVS)]
        infos = [{"action_log_prob": value} for value in log_probs]
        buffer.add(obs, obs + 1, np.zeros((N_ENVS, 2)), np.array(log_probs), np.zeros(N_ENVS), infos)
    for each in (buffer, pickle.loads(pickle.dumps(buffer))):
        assert each.log_probs.shape == (CAPACITY, N_ENVS) and np.array_equal(each.log_probs, each.rewards)
        windows = each.sample_windows(4, 64)
        assert np.array_equal(windows.log_probs, windows.rewards)
        assert each.nbytes() - 4 * CAPACITY * N_ENVS == each.nbytes() - each.log_probs.nbytes
    assert buffer.expected_nbytes() == plain.expected_nbytes() + buffer.log_probs.nbytes
    buffer.reset()
    assert not buffer.log_probs.any()
