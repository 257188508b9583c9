"""Minibatches of one large sample."""

import torch as th
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

from sb3_ext.buffers.samples import split_minibatches


@given(n_minibatches=st.integers(1, 7), batch_size=st.integers(1, 6), n_step=st.booleans())
def test_every_row_is_in_exactly_one_minibatch(n_minibatches: int, batch_size: int, n_step: bool) -> None:
    n_rows = n_minibatches * batch_size
    column = th.arange(n_rows).float().unsqueeze(1)
    samples = ReplayBufferSamples(
        observations=column.expand(-1, 3),
        actions=column + 0.1,
        next_observations=column.expand(-1, 3) + 0.2,
        dones=column + 0.3,
        rewards=column + 0.4,
        discounts=column + 0.5 if n_step else None,
    )
    minibatches = split_minibatches(samples, n_minibatches)
    assert len(minibatches) == n_minibatches
    seen = []
    for start, minibatch in enumerate(minibatches):
        expected = list(range(start, n_rows, n_minibatches))
        assert minibatch.observations[:, 0].tolist() == expected
        for name, offset in (("actions", 0.1), ("dones", 0.3), ("rewards", 0.4)):
            th.testing.assert_close(getattr(minibatch, name).flatten(), th.tensor(expected) + offset)
        assert minibatch.next_observations.shape == (batch_size, 3)
        assert (minibatch.discounts is not None) == n_step
        seen += expected
    assert sorted(seen) == list(range(n_rows))


def test_dictionaries_are_split_key_by_key_without_copying() -> None:
    obs = {"a": th.arange(6), "b": th.arange(12).view(6, 2)}
    ones = th.ones(6, 1)
    samples = DictReplayBufferSamples(obs, ones, obs, ones, ones)
    first, second = split_minibatches(samples, 2)
    assert first.observations["a"].tolist() == [0, 2, 4]
    assert second.observations["b"].tolist() == [[2, 3], [6, 7], [10, 11]]
    assert second.next_observations["a"].tolist() == [1, 3, 5]
    assert first.observations["a"].data_ptr() == obs["a"].data_ptr()
