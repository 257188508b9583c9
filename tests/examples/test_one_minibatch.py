"""The mistake is the one that is meant, and nothing else; experiments find it from the root of a clone."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
import yaml
from gymnasium import spaces

from sb3_ext import REDQSAC
from sb3_ext.buffers.samples import split_minibatches

EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = ("hopper_redq_mistakes.yml", "inverted_pendulum_redq_mistakes.yml")

specification = importlib.util.spec_from_file_location("one_minibatch", EXAMPLES / "experiments" / "one_minibatch.py")
one_minibatch = importlib.util.module_from_spec(specification)
specification.loader.exec_module(one_minibatch)
OneMinibatchReplayBuffer = one_minibatch.OneMinibatchReplayBuffer


def filled(**kwargs) -> OneMinibatchReplayBuffer:
    space = spaces.Box(-1, 1, (2,), np.float32)
    buffer = OneMinibatchReplayBuffer(100, space, space, "cpu", **kwargs)
    for number in range(60):
        row = np.full((1, 2), number / 100, dtype=np.float32)
        buffer.add(row, row, row, np.array([float(number)]), np.array([False]), [{}])
    return buffer


def test_as_many_updates_share_a_minibatch_as_are_meant_to():
    np.random.seed(0)
    buffer = filled(minibatch_size=7, n_repeats=5)
    # 3, 1 and 6 minibatches at a time: 5 of one, 5 of another
    minibatches = [part for n in (3, 1, 6) for part in split_minibatches(buffer.sample(7 * n), n)]
    assert all(part.rewards.shape == (7, 1) and part.observations.shape == (7, 2) for part in minibatches)
    first, second = minibatches[0].rewards, minibatches[5].rewards
    assert not th.equal(first, second) and len(set(first.flatten().tolist())) > 3
    for index, part in enumerate(minibatches):
        assert th.equal(part.rewards, first if index < 5 else second), index
        # Rows stay together
        th.testing.assert_close(part.observations[:, :1], part.rewards / 100)
    np.random.seed(0)
    plain = super(OneMinibatchReplayBuffer, filled()).sample(7)
    assert th.equal(plain.rewards, first)


def test_what_it_cannot_share_is_said():
    with pytest.raises(ValueError, match="batch_size=10 must be a multiple of minibatch_size=7"):
        filled(minibatch_size=7).sample(10)
    with pytest.raises(ValueError, match="n_repeats=0"):
        filled(n_repeats=0)


def test_redqsac_trains_with_it():
    def train(n_repeats: int) -> th.Tensor:
        model = REDQSAC(
            "MlpPolicy",
            "Pendulum-v1",
            learning_starts=50,
            batch_size=8,
            seed=0,
            gradient_steps=4,
            policy_delay=4,
            replay_buffer_class=OneMinibatchReplayBuffer,
            replay_buffer_kwargs=dict(minibatch_size=8, n_repeats=n_repeats),
            policy_kwargs=dict(net_arch=[8]),
            device="cpu",
        )
        model.learn(60)
        assert model._n_updates == 40
        return next(iter(model.critic.parameters())).detach()

    assert not th.equal(train(4), train(1))


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in FILES])
def test_experiments_find_it_from_the_root_of_a_clone(name, tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    # Whatever else is installed, it is this copy that is imported
    with (tmp_path / "examples" / "experiments" / "one_minibatch.py").open("a") as file:
        file.write("\nprint('imported from the copy')\n")
    path = Path("examples") / "experiments" / name
    content = yaml.safe_load((EXAMPLES.parent / path).read_text())
    content |= {"environments": ["Pendulum-v1"], "seeds": [1], "eval_freq": 30, "eval_episodes": 1}
    content["n_timesteps"] = 60
    content["variants"] = {"one_minibatch": content["variants"]["one_minibatch"]}
    content["hyperparams"] |= {"learning_starts": 50, "policy_kwargs": "dict(n_critics=2, net_arch=[8])"}
    (tmp_path / path).write_text(yaml.safe_dump(content))
    done = subprocess.run(
        [sys.executable, "-m", "sb3_ext.experiments", "run", path, "-f", "logs"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    run = tmp_path / "logs" / "one_minibatch" / "Pendulum-v1" / "seed_1"
    assert (run / "finished.json").exists()
    assert "imported from the copy" in (run / "output.log").read_text()
