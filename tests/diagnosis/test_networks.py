"""Units, features and gradients inside networks."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch as th
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from torch import nn

from sb3_ext import REDQSAC
from sb3_ext.diagnosis import DiagnosisCallback
from sb3_ext.diagnosis.networks import NetworkObserver
from sb3_ext.nets import DuelingMLP, EnsembleMLP
from sb3_ext.nets.output_layers import output_layers

from .helpers import make_model, rows_of

# (SB3 asks every environment for frames, if there is no other way)
pytestmark = pytest.mark.filterwarnings("ignore:.*render_mode")


class Weights(BaseCallback):
    """Remembers the parameters of critics and actor, and the gradients left behind, at every step."""

    def _on_training_start(self) -> None:
        self.weights: dict[str, list[th.Tensor]] = {"critic": [], "actor": []}
        self.left_behind: list[float] = []

    def _on_step(self) -> bool:
        for name, weights in self.weights.items():
            parameters = list(getattr(self.model, name).parameters())
            weights.append(th.cat([parameter.detach().double().flatten() for parameter in parameters]))
        gradients = [p.grad.flatten() for p in self.model.critic.parameters() if p.grad is not None]
        self.left_behind.append(float(th.cat(gradients).norm()) if gradients else math.nan)
        return True


@pytest.mark.parametrize("cls", [SAC, TD3, REDQSAC])
def test_gradient_norms_are_those_of_the_updates(cls: Any, tmp_path: Path) -> None:
    # Gradient descent moves the weights by the learning rate times the gradient
    rate = 1e-3
    kwargs: dict[str, Any] = dict(gradient_steps=1, policy_delay=1) if cls is not SAC else {}
    model = make_model(cls, learning_rate=rate, policy_kwargs=dict(optimizer_class=th.optim.SGD), **kwargs)
    seen = Weights()
    diagnosis = DiagnosisCallback(1, n_episodes=0, csv_path=tmp_path / "d.csv")
    model.learn(25, callback=CallbackList([seen, diagnosis]))
    rows = rows_of(tmp_path / "d.csv")
    assert [row["timesteps"] for row in rows] == list(range(11, 26))
    for name, weights in seen.weights.items():
        # The first row comes before the first update
        assert rows[0][f"{name}_grad_norm"] is None
        for row in rows[1:]:
            step = int(row["timesteps"]) - 1
            expected = float((weights[step] - weights[step - 1]).norm()) / rate
            assert row[f"{name}_grad_norm"] == pytest.approx(expected, rel=1e-2)
    # What SAC and TD3 leave behind is something else
    left_behind = [seen.left_behind[int(row["timesteps"]) - 1] for row in rows[1:]]
    is_same = [row["critic_grad_norm"] == pytest.approx(norm) for row, norm in zip(rows[1:], left_behind, strict=True)]
    assert all(is_same) == (cls is REDQSAC)


def test_gradient_norms_are_the_mean_since_the_last_measurement(tmp_path: Path) -> None:
    rows = []
    for eval_freq in (1, 5):
        path = tmp_path / f"{eval_freq}.csv"
        make_model(DQN, train_freq=1).learn(26, callback=DiagnosisCallback(eval_freq, n_episodes=0, csv_path=path))
        rows.append({row["timesteps"]: row["critic_grad_norm"] for row in rows_of(path)})
    every, fifth = rows
    assert sorted(fifth) == [15, 20, 25]
    assert fifth[20] == pytest.approx(sum(every[step] for step in range(16, 21)) / 5)


def observed(network: nn.Module, inputs: th.Tensor) -> NetworkObserver:
    with NetworkObserver(network, [output_layers(network)]) as observer, th.no_grad():
        network(inputs)
    return observer


def test_units_of_plain_networks() -> None:
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 3))
    with th.no_grad():
        network[0].bias[2] = network[0].bias[5] = network[2].bias[1] = -1e3
    inputs = th.randn(9, 5, generator=th.Generator().manual_seed(0))
    first = network[:2](inputs).abs()
    scores = observed(network, inputs).scores
    assert [score.shape for score in scores] == [(7,), (11,)]
    for unit in range(7):
        expected = sum(first[:, unit].tolist()) / 9 / (first.sum().item() / 63)
        assert scores[0][unit].item() == pytest.approx(expected, rel=1e-5)
    assert {2, 5} <= set((scores[0] == 0).nonzero().flatten().tolist())
    assert scores[1][1] == 0
    assert len(observed(network, inputs).scores) == 2  # hooks are removed


def test_units_of_ensembles_images_and_quantiles() -> None:
    ensemble = EnsembleMLP(3, 5, [7])
    with th.no_grad():
        ensemble.layers[0].bias[1] = -1e3
    scores = observed(ensemble, th.randn(9, 5)).scores
    # Each member has units of its own: those of the second are dead
    assert scores[0].shape == (3, 7)
    assert (scores[0] == 0).sum(dim=1)[1] == 7
    assert scores[0][[0, 2]].sum().item() == pytest.approx(14, rel=1e-5)

    images = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 6 * 9, 4))
    with th.no_grad():
        images[0].bias[3] = -1e3
    scores = observed(images, th.randn(7, 2, 8, 11)).scores
    assert scores[0].shape == (5,)
    assert scores[0][3] == 0

    levels = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2))
    assert observed(levels, th.randn(9, 4, 5)).scores[0].shape == (7,)


def test_rank_of_the_features() -> None:
    linear = nn.Sequential(nn.Linear(6, 8), nn.Identity(), nn.Linear(8, 2))
    with th.no_grad():
        linear[0].bias.zero_()
        linear[0].weight.copy_(th.eye(8, 6) * th.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]))
    inputs = th.eye(6).repeat(4, 1)
    assert observed(linear, inputs).feature_rank(0.01) == 3
    # A dueling network is linear in the features of both streams together
    dueling = DuelingMLP(6, 3, [8], nn.Identity)
    with th.no_grad():
        for stream, directions in ((dueling.value, [0, 1]), (dueling.advantage, [1, 2, 3])):
            stream[0].bias.zero_()
            stream[0].weight.zero_()
            for direction in directions:
                stream[0].weight[direction, direction] = 1.0
    assert observed(dueling, inputs).feature_rank(0.01) == 4
    # Of several critics the mean
    ensemble = EnsembleMLP(2, 6, [8], nn.Identity)
    with th.no_grad():
        ensemble.layers[0].bias.zero_()
        ensemble.layers[0].weight.copy_(th.stack([th.eye(6, 8), th.eye(6, 8)]))
        ensemble.layers[0].weight[1, 1:] = 0
    assert observed(ensemble, inputs).feature_rank(0.01) == (6 + 1) / 2
