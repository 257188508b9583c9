"""Experiment files that are small enough to be run."""

from pathlib import Path
from textwrap import dedent

import pytest

SMALL = """
    environments: [CartPole-v1]
    seeds: [1, 2]
    n_timesteps: 200
    eval_freq: 100
    eval_episodes: 2
    base: none
    hyperparams: {policy: MlpPolicy, learning_starts: 50, buffer_size: 1000}
    variants:
      stock: {algo: dqn}
      double: {algo: double_dqn, hyperparams: {policy_kwargs: "dict(dueling=True)"}}
"""


@pytest.fixture
def write_experiment(tmp_path):
    """Write an experiment file: ``write_experiment(text)`` returns its path."""

    def write(text: str = SMALL, name: str = "small.yml") -> Path:
        path = tmp_path / name
        path.write_text(dedent(text))
        return path

    return write
