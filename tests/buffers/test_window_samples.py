"""Windows as an algorithm samples them: by priority, in minibatches, normalized."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import (
    DeviceReplayBuffer,
    FrameDedupReplayBuffer,
    PrioritizedReplayBuffer,
)
from sb3_ext.buffers import WindowSamples, sample_windows
from sb3_ext.buffers.samples import minibatch_weights, single_precision, split_minibatches, update_priorities
from tests.support.environments import Blank
from tests.support.windows import (
    ACTIONS,
    IMAGE,
    PRIORITIZED,
    SPACES,
    STORAGES,
    VECTOR,
    Recorder,
    make,
)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("space", SPACES)
def test_samples_are_the_windows_as_tensors(storage: str, space: str, tmp_path: Path) -> None:
    buffer = make(storage, space, 3 * 9, 3, tmp_path)
    Recorder(SPACES[space], 3, seed=2).play(14, buffer)
    np.random.seed(4)
    drawn = buffer.draw(16, 1.0)
    after_draw = np.random.random()
    np.random.seed(4)
    samples = sample_windows(buffer, 5, 16, None, 1.0)
    assert np.random.random() == after_draw
    window = buffer.window(drawn.slots, drawn.envs, 5)
    for name, dtype in (("rewards", th.float32), ("dones", th.float32), ("valid", th.bool), ("actions", th.float32)):
        tensor = getattr(samples, name)
        assert tensor.dtype == dtype and (tensor.numpy() == getattr(window, name)).all()
    for name in ("observations", "next_observations"):
        tensors, arrays = getattr(samples, name), getattr(window, name)
        for key in arrays if space == "dict" else [None]:
            tensor, array = (tensors, arrays) if key is None else (tensors[key], arrays[key])
            assert tensor.shape == array.shape and (tensor.numpy() == array).all()
    assert samples.discounts is None
    assert (samples.weights is None) == (samples.indices is None) == ("prioritized" not in storage)


@pytest.mark.parametrize("buffer_class", PRIORITIZED)
def test_windows_are_drawn_by_priority(buffer_class: type) -> None:
    buffer = buffer_class(2 * 8, VECTOR, ACTIONS, "cpu", 2, alpha=1.0, beta=0.5, eps=1e-9)
    recorder = Recorder(VECTOR, 2, seed=3)
    recorder.play(6, buffer)
    errors = np.arange(1.0, 13.0)
    buffer.update_priorities(np.arange(12), errors)
    samples = sample_windows(buffer, 3, 780, None, 1.0)
    assert samples.indices.dtype == th.int64 and samples.indices.shape == (780,)
    assert samples.weights.dtype == th.float32 and samples.weights.shape == (780, 1)
    # 780 draws, one from each equal part of 78: 10 for each unit of priority, up to the two parts at its bounds
    counts = np.bincount(samples.indices.numpy(), minlength=12)
    assert np.abs(counts - 10 * errors).max() <= 2
    for index, weight, obs in zip(samples.indices, samples.weights, samples.observations, strict=True):
        # beta=0.5, and the least likely transition has weight 1
        assert weight.item() == pytest.approx(errors[index] ** -0.5)
        assert (obs[0].numpy() == recorder.steps[int(index) % 2][int(index) // 2].obs).all()
    # beta goes to 1
    samples = sample_windows(buffer, 3, 100, None, 0.0)
    th.testing.assert_close(samples.weights.flatten(), th.as_tensor(1 / errors[samples.indices], dtype=th.float32))
    # The random numbers are those of single transitions
    np.random.seed(5)
    single = buffer.sample_prioritized(30)
    np.random.seed(5)
    windows = sample_windows(buffer, 3, 30, None, 1.0)
    assert th.equal(single.indices, windows.indices) and th.equal(single.weights, windows.weights)


def test_priorities_are_written_back_for_windows() -> None:
    buffer = PrioritizedReplayBuffer(20, VECTOR, ACTIONS, "cpu", 2, alpha=1.0, eps=0.5)
    Recorder(VECTOR, 2, seed=3).play(7, buffer)
    assert buffer.priorities.tolist() == [1.0] * 14
    with pytest.raises(ValueError, match="read-only"):
        buffer.priorities[0] = 2.0
    buffer.update_priorities(np.arange(14), np.arange(14.0))
    minibatches = split_minibatches(sample_windows(buffer, 4, 40, None, 1.0), 2)
    for minibatch in minibatches:
        weights = minibatch_weights(minibatch)
        assert weights.shape == (20,) and weights.max() == 1.0
        th.testing.assert_close(weights, (minibatch.weights / minibatch.weights.max()).flatten())
    expected = buffer.priorities.copy()
    for minibatch in minibatches:
        for index in minibatch.indices.tolist():
            expected[index] = index + 100.5
    update_priorities(buffer, minibatches, [minibatch.indices + 100.0 for minibatch in minibatches])
    assert buffer.priorities.tolist() == expected.tolist()


def test_windows_without_priorities_have_no_weights(tmp_path: Path) -> None:
    buffer = make("arrays", "vector", 20, 2, tmp_path)
    Recorder(VECTOR, 2).play(7, buffer)
    samples = sample_windows(buffer, 3, 10, None, 1.0)
    assert minibatch_weights(samples) is None
    update_priorities(buffer, [samples], [th.zeros(10)])  # without effect, and without an error


def test_minibatches_of_windows() -> None:
    space = spaces.Dict({"image": IMAGE, "vector": spaces.Box(-1, 1, (3,), np.float64)})
    buffer = FrameDedupReplayBuffer(40, space, ACTIONS, "cpu", 2)
    Recorder(space, 2).play(12, buffer)
    samples = sample_windows(buffer, 4, 12, None, 1.0)
    assert samples.observations["vector"].dtype == th.float64
    single = single_precision(samples)
    assert isinstance(single, WindowSamples)
    assert single.observations["vector"].dtype == th.float32 and single.valid.dtype == th.bool
    parts = split_minibatches(single, 3)
    assert [type(part) for part in parts] == [WindowSamples] * 3
    for start, part in enumerate(parts):
        assert part.observations["image"].shape == (4, 4, 2, 5, 7)
        assert th.equal(part.rewards, single.rewards[start::3])
        assert th.equal(part.valid, single.valid[start::3])


@pytest.mark.parametrize("storage", ["arrays", "frames", "prioritized"])
@pytest.mark.parametrize("space", ["vector", "dict"])
def test_windows_are_normalized(storage: str, space: str, tmp_path: Path) -> None:
    buffer = make(storage, space, 20, 2, tmp_path)
    Recorder(SPACES[space], 2, seed=6).play(9, buffer)
    keys = ["vector"] if space == "dict" else None
    env = VecNormalize(DummyVecEnv([lambda: Blank(SPACES[space], ACTIONS)] * 2), norm_obs_keys=keys)
    stats = env.obs_rms["vector"] if keys else env.obs_rms
    stats.mean, stats.var, env.ret_rms.var = stats.mean + 0.3, stats.var * 1.7, np.array(2.5)
    samples = []
    for normalizer in (None, env):
        np.random.seed(7)
        samples.append(sample_windows(buffer, 3, 12, normalizer, 1.0))
    plain, scaled = samples
    for b in range(12):
        for k in range(3):
            expected = env.normalize_reward(plain.rewards[b, k].numpy())
            assert scaled.rewards[b, k].numpy() == pytest.approx(expected)
            for name in ("observations", "next_observations"):
                field, other = getattr(plain, name), getattr(scaled, name)
                if keys:
                    assert th.equal(field["image"][b, k], other["image"][b, k])
                    one = {key: tensor[b, k].numpy() for key, tensor in field.items()}
                    expected = env.normalize_obs(one)["vector"]
                    np.testing.assert_allclose(other["vector"][b, k].numpy(), expected, rtol=1e-6)
                else:
                    expected = env.normalize_obs(field[b, k].numpy())
                    np.testing.assert_allclose(other[b, k].numpy(), expected, rtol=1e-6)
    assert not th.equal(plain.rewards, scaled.rewards)
    for name in ("actions", "dones", "valid"):
        assert th.equal(getattr(plain, name), getattr(scaled, name))


@pytest.mark.parametrize("buffer_class", [ReplayBuffer, NStepReplayBuffer, DictReplayBuffer, DeviceReplayBuffer])
def test_a_stock_buffer_is_refused_with_the_classes_that_can(buffer_class: type) -> None:
    space = SPACES["dict"] if buffer_class is DictReplayBuffer else VECTOR
    buffer = buffer_class(20, space, ACTIONS, "cpu")
    names = r"ArrayReplayBuffer.*FrameDedupReplayBuffer, PrioritizedReplayBuffer or PrioritizedFrameDedupReplayBuffer"
    with pytest.raises(ValueError, match=rf"replay_buffer is a {buffer_class.__name__}, which cannot .* {names}"):
        sample_windows(buffer, 3, 2, None, 1.0)


def test_the_example_in_the_documentation_runs() -> None:
    text = (Path(__file__).parents[2] / "docs" / "buffers.md").read_text()
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "sample_windows" in block)
    names: dict[str, Any] = {}
    exec(example, names)
    samples = names["samples"]
    assert samples.observations.shape == (32, 5, 3)
    assert (samples.rewards * samples.valid).sum(dim=1).max() == 5.0
    assert names["window"].lengths.tolist() == [3, 5]
