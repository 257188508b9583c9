"""What rl_zoo3 shows of a hyperparameter that does not exist: an error that stops the run, with what was meant."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from rl_zoo3.exp_manager import ExperimentManager

from sb3_ext.zoo import register


def manager(folder: Path, algo: str, hyperparams: dict[str, Any], **kwargs: Any) -> ExperimentManager:
    register()
    env = "Pendulum-v1" if algo == "redq_sac" else "CartPole-v1"
    changed = dict(buffer_size=100, learning_starts=10) | hyperparams
    return ExperimentManager(
        Namespace(), algo, env, str(folder), eval_freq=-1, verbose=0, hyperparams=changed, device="cpu", **kwargs
    )


@pytest.mark.parametrize(
    ("algo", "hyperparams", "told"),
    [
        (
            "double_dqn",
            dict(dueling=True),
            "DoubleDQN has no argument dueling=True: did you mean policy_kwargs=dict(du",
        ),
        ("redq_sac", dict(policy_kwargs="dict(dropout_rate=0.1)"), "did you mean policy_kwargs=dict(dropout=0.1)?"),
        (
            "iqn",
            dict(replay_buffer_class="PrioritizedReplayBuffer", replay_buffer_kwargs="dict(alhpa=0.5)"),
            "did you mean replay_buffer_kwargs=dict(alpha=0.5)?",
        ),
        ("soft_dqn", dict(temperature=0.1), "did you mean temperature_initial=0.1?"),
    ],
)
def test_a_run_from_the_command_line(tmp_path: Path, algo: str, hyperparams: dict[str, Any], told: str) -> None:
    with pytest.raises(TypeError) as caught:
        manager(tmp_path, algo, hyperparams).setup_experiment()
    assert told in str(caught.value)


def test_a_run_that_continues(tmp_path: Path) -> None:
    model, _ = manager(tmp_path, "double_dqn", {}).setup_experiment()
    model.save(tmp_path / "model.zip")
    trained = dict(trained_agent=str(tmp_path / "model.zip"), seed=1)
    assert manager(tmp_path, "double_dqn", dict(batch_size=7), **trained).setup_experiment()[0].batch_size == 7
    with pytest.raises(
        TypeError, match=r"DoubleDQN.load\(\) has no argument bacth_size=7: did you mean batch_size=7\?"
    ):
        manager(tmp_path, "double_dqn", dict(bacth_size=7), **trained).setup_experiment()


def test_a_search_is_stopped(tmp_path: Path) -> None:
    search = manager(
        tmp_path,
        "double_dqn",
        dict(duelling=True),
        optimize_hyperparameters=True,
        n_timesteps=20,
        n_trials=2,
        n_evaluations=1,
        n_startup_trials=1,
    )
    assert search.setup_experiment() is None
    with pytest.raises(TypeError, match=r"did you mean policy_kwargs=dict\(dueling=True\)"):
        search.hyperparameters_optimization()
