"""The callback: its arguments, its file and log, and a training that does not notice it."""

import copy
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from sb3_contrib import CrossQ
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.callbacks import ConvertCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import CEMQ, IQN, NAF, REDQSAC, DoubleDQN, PrioritizedReplayBuffer, SoftDQN
from sb3_ext.diagnosis import DiagnosisCallback
from sb3_ext.diagnosis.callback import COLUMNS
from sb3_ext.diagnosis.probes import probe_for
from tests.support.models import make

from .helpers import VALUE_BASED, EndlessReward, make_model, rows_of

# (SB3 asks every environment for frames, if there is no other way)
pytestmark = pytest.mark.filterwarnings("ignore:.*render_mode")


def parameters_of(model: Any) -> list[th.Tensor]:
    tensors = list(model.policy.state_dict().values())
    log_ent_coef = getattr(model, "log_ent_coef", None)
    return tensors if log_ent_coef is None else [*tensors, log_ent_coef]


@pytest.mark.parametrize(
    ("cls", "kwargs"),
    [
        (SAC, {}),
        (SAC, dict(use_sde=True, sde_sample_freq=7)),
        (SAC, dict(policy_kwargs=dict(share_features_extractor=True), n_envs=2)),
        pytest.param(CrossQ, {}, marks=pytest.mark.slow),
        (REDQSAC, dict(policy_kwargs=dict(n_critics=2, layer_norm=True, dropout=0.1))),
        (DQN, dict(exploration_fraction=1.0, target_update_interval=20)),
        (DoubleDQN, dict(replay_buffer_class=PrioritizedReplayBuffer, n_envs=3, train_freq=1)),
        (SoftDQN, dict(auto_temperature=True)),
        (IQN, {}),
        (CEMQ, {}),
        (NAF, {}),
    ],
    ids=lambda value: getattr(value, "__name__", ",".join(value) if isinstance(value, dict) else None),
)
def test_training_is_the_same_with_and_without(cls: Any, kwargs: dict[str, Any], tmp_path: Path) -> None:
    models = []
    for callback in (None, DiagnosisCallback(18, 2, max_steps=11, batch_size=16, csv_path=tmp_path / "d.csv")):
        vec_normalize = VecNormalize(
            make_vec_env(
                "LimitedReward-v0",
                kwargs.get("n_envs", 1),
                seed=4,
                env_kwargs=dict(actions="discrete" if cls in VALUE_BASED else "continuous"),
            )
        )
        model = make_model(cls, vec_normalize, **{key: value for key, value in kwargs.items() if key != "n_envs"})
        model.learn(80, callback=callback)
        models.append(model)
    reference, diagnosed = models
    assert len(rows_of(tmp_path / "d.csv")) >= 4
    assert reference._n_updates == diagnosed._n_updates > 10
    for expected, actual in zip(parameters_of(reference), parameters_of(diagnosed), strict=True):
        assert th.equal(expected, actual)
    assert np.array_equal(reference.replay_buffer.actions, diagnosed.replay_buffer.actions)
    assert reference.env.obs_rms.mean.tolist() == diagnosed.env.obs_rms.mean.tolist()
    assert reference.policy.training == diagnosed.policy.training
    # Nothing is left behind
    for module in diagnosed.policy.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
    optimizers = probe_for(diagnosed).optimizers.values()
    assert not any(optimizer._optimizer_step_pre_hooks for optimizer in optimizers)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(eval_freq=0), "eval_freq=0"),
        (dict(n_episodes=-1), "n_episodes=-1"),
        (dict(max_steps=0), "max_steps=0"),
        (dict(batch_size=1.5), r"batch_size=1\.5"),
        (dict(tail_tolerance=0.0), r"tail_tolerance=0\.0"),
        (dict(tail_tolerance=1.0), r"tail_tolerance=1\.0"),
        (dict(dormant_threshold=-0.1), r"dormant_threshold=-0\.1"),
        (dict(rank_delta=1), "rank_delta=1"),
        (dict(env="CartPole-v1"), "env='CartPole-v1'"),
        (dict(env=EndlessReward(), env_wrapper="a.b"), r"env_wrapper='a\.b'"),
        (dict(seed=-1), "seed=-1"),
    ],
    # Not `str`: an environment's holds its address, and each process that runs tests has another
    ids=lambda value: next(reversed(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiagnosisCallback(**kwargs)


def test_the_file_is_continued_and_never_mixed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "d.csv"
    model = make_model(DQN)
    model.learn(40, callback=DiagnosisCallback(15, n_episodes=0, csv_path=path))
    assert [row["timesteps"] for row in rows_of(path)] == [15, 30]
    model.learn(40, callback=DiagnosisCallback(15, n_episodes=0, csv_path=str(path)), reset_num_timesteps=False)
    assert [row["timesteps"] for row in rows_of(path)] == [15, 30, 55, 70]
    assert path.read_text().count("timesteps") == 1
    path.write_text("something,else\n1,2\n")
    with pytest.raises(ValueError, match="is a file with the header 'something,else'"):
        model.learn(40, callback=DiagnosisCallback(15, n_episodes=0, csv_path=path))
    assert path.read_text() == "something,else\n1,2\n"


def test_measurements_are_reproducible_and_logged(tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        model = make_model(SAC, tensorboard_log=str(tmp_path / name))
        model.learn(40, callback=DiagnosisCallback(20, 2, max_steps=9, seed=5))
        texts.append((tmp_path / name / "SAC_1" / "diagnosis.csv").read_text())
        assert list((tmp_path / name / "SAC_1").glob("events*"))
    assert texts[0] == texts[1]

    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(tmp_path / "a" / "SAC_1"))
    events.Reload()
    rows = rows_of(tmp_path / "a" / "SAC_1" / "diagnosis.csv")
    for name in set(COLUMNS) - {"timesteps"}:
        logged = [(event.step, event.value) for event in events.Scalars(f"diagnosis/{name}")]
        assert logged == [(row["timesteps"], pytest.approx(row[name])) for row in rows if row[name] is not None]


@pytest.mark.parametrize("cls", [REDQSAC, DoubleDQN])
def test_new_networks_and_optimizers_are_measured(cls: Any, tmp_path: Path) -> None:
    callback = DiagnosisCallback(eval_freq=40, n_episodes=0, csv_path=tmp_path / "diagnosis.csv")

    def replace(local_variables: dict[str, Any], _: dict[str, Any]) -> bool:
        model = local_variables["self"]
        if model.num_timesteps == 65:
            name = "critic" if cls is REDQSAC else "q_net"
            network = copy.deepcopy(getattr(model, name))
            setattr(model, name, network)
            setattr(model.policy, name, network)
            owner = network if cls is REDQSAC else model.policy
            owner.optimizer = th.optim.Adam(network.parameters(), lr=1e-3)
        return True

    model = make(cls).learn(160, callback=[callback, ConvertCallback(replace)])
    assert callback._probe.network is (model.critic if cls is REDQSAC else model.q_net)
    # Those of the interval with the replacement are the old optimizer's
    assert all(row["critic_grad_norm"] is not None for row in rows_of(tmp_path / "diagnosis.csv"))
    assert len(rows_of(tmp_path / "diagnosis.csv")) == 4


def test_rl_zoo3_makes_the_callback() -> None:
    get_callback_list = pytest.importorskip("rl_zoo3.utils").get_callback_list
    (callback,) = get_callback_list({"callback": [{"sb3_ext.diagnosis.DiagnosisCallback": {"eval_freq": 5000}}]})
    assert isinstance(callback, DiagnosisCallback)
    assert callback.eval_freq == 5000


@pytest.mark.slow
def test_in_a_yaml_file_of_rl_zoo3(tmp_path: Path) -> None:
    (tmp_path / "sac.yml").write_text(
        f"""
Pendulum-v1:
  n_timesteps: 600
  policy: MlpPolicy
  normalize: true
  learning_starts: 100
  train_freq: 10
  gradient_steps: 1
  batch_size: 16
  gamma: 0.9
  policy_kwargs: dict(net_arch=[16])
  callback:
    - sb3_ext.diagnosis.DiagnosisCallback: {{eval_freq: 250, n_episodes: 1, csv_path: {tmp_path}/diagnosis.csv}}
"""
    )
    options = ("--conf-file", "sac.yml", "--eval-freq", "-1", "--seed", "1", "--device", "cpu")
    process = subprocess.run(
        [sys.executable, "-m", "rl_zoo3.train", "--algo", "sac", "--env", "Pendulum-v1", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    rows = rows_of(tmp_path / "diagnosis.csv")
    assert [row["timesteps"] for row in rows] == [250, 500]
    assert all(value is not None for row in rows for value in row.values())
    assert [row["n_state_actions"] for row in rows] == [200, 200]


def test_an_interrupted_training_leaves_no_hooks(tmp_path: Path) -> None:
    model = make_model(SAC, gym.make("EndlessReward-v0"))

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    for _ in range(3):
        callbacks = [DiagnosisCallback(10**6, csv_path=tmp_path / "diagnosis.csv"), ConvertCallback(interrupt)]
        with pytest.raises(KeyboardInterrupt):
            model.learn(20, callback=callbacks)
        del callbacks
        gc.collect()
        assert len(model.critic.optimizer._optimizer_step_pre_hooks) == 0
