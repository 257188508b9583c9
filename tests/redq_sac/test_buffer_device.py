"""The replay buffer that REDQSAC chooses for its device."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer

from sb3_ext import REDQSAC, DeviceReplayBuffer, PrioritizedReplayBuffer
from tests.support import models

make = partial(models.make, buffer_device="auto")


def test_the_buffer_follows_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The device as it is on a GPU, as far as the choice of the buffer goes."""
    assert type(make().replay_buffer) is ReplayBuffer
    choose = REDQSAC._default_buffer_class

    def as_on_a_gpu(self: REDQSAC) -> Any:
        real, self.device = self.device, th.device("cuda")
        try:
            return choose(self)
        finally:
            self.device = real

    monkeypatch.setattr(REDQSAC, "_default_buffer_class", as_on_a_gpu)
    model = make()
    assert type(model.replay_buffer) is DeviceReplayBuffer
    assert type(make(buffer_device="cpu").replay_buffer) is ReplayBuffer
    assert type(make(n_steps=3).replay_buffer) is not DeviceReplayBuffer
    assert type(make(replay_buffer_class=PrioritizedReplayBuffer).replay_buffer) is PrioritizedReplayBuffer
    model.learn(30)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    monkeypatch.undo()
    loaded = REDQSAC.load(tmp_path / "model", env=model.env)
    assert type(loaded.replay_buffer) is ReplayBuffer
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.learn(10, reset_num_timesteps=False)._n_updates > model._n_updates
