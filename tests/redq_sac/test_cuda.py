"""What differs on a GPU: where tensors are, and what a saved model takes along."""

from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_ext import REDQSAC

pytestmark = pytest.mark.skipif(not th.cuda.is_available(), reason="needs a GPU")


@pytest.mark.parametrize("variant", [{}, {"actor_gradient": "reinforce"}, {"target_backup": "rem"}, {"ent_coef": 0.1}])
def test_train_on_the_gpu_and_go_on_on_the_cpu(variant: dict[str, Any], tmp_path: Path) -> None:
    model = REDQSAC(
        "MlpPolicy", "Pendulum-v1", device="cuda", learning_starts=20, policy_kwargs=dict(net_arch=[8]), **variant
    )
    model.learn(30)
    assert model.critic.ensemble.layers[0].weight.is_cuda
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = REDQSAC.load(tmp_path / "model", env=model.env, device="cpu")
    loaded.load_replay_buffer(tmp_path / "buffer")
    for name, value in model.policy.state_dict().items():
        assert th.equal(loaded.policy.state_dict()[name], value.cpu()), name
    loaded.learn(5, reset_num_timesteps=False)
    assert loaded._n_updates == model._n_updates + 5 * 20
