"""Both actor gradients of the algorithm, with its critics, estimate the same gradient."""

from typing import Any

import pytest
import torch as th

from sb3_ext import REDQSAC

N_REPLICAS = 250
N_SAMPLES = 1000


def mean_gradient(**kwargs: Any) -> tuple[th.Tensor, th.Tensor]:
    """
    :return: mean over the replicas of the gradient of the actor's loss, and the standard error of each component
    """
    model = REDQSAC(
        "MlpPolicy",
        "Pendulum-v1",
        seed=0,
        n_actor_samples=N_SAMPLES,
        policy_kwargs=dict(net_arch=dict(pi=[2], qf=[6]), n_critics=3, activation_fn=th.nn.Tanh),
        **kwargs,
    )
    obs = 3 * th.randn(3, 3, generator=th.Generator().manual_seed(1))
    model.actor.optimizer = th.optim.SGD(model.actor.parameters(), lr=0.0)  # gradients only
    gradients = []
    for _ in range(N_REPLICAS):
        model.updater.step_actor(obs, model.updater.sample_policy(obs), th.tensor(0.3))
        gradients.append(th.cat([parameter.grad.flatten().double() for parameter in model.actor.parameters()]))
    stacked = th.stack(gradients)
    return stacked.mean(dim=0), stacked.std(dim=0) / N_REPLICAS**0.5


@pytest.mark.parametrize("actor_q", ["mean", "min"])
def test_they_agree_within_monte_carlo_error(actor_q: str) -> None:
    expected, error = mean_gradient(actor_gradient="reparam", actor_q=actor_q)
    assert (expected.abs() > 20 * error).any()  # there is something to agree on
    for baseline in ("none", "loo", "mean_action", "batch"):
        actual, actual_error = mean_gradient(actor_gradient="reinforce", reinforce_baseline=baseline, actor_q=actor_q)
        z = (actual - expected).abs() / (actual_error.square() + error.square()).sqrt()
        assert z.max() < 4.5, f"{baseline}: {z}"


def test_the_default_baseline_follows_the_number_of_samples() -> None:
    def model(n_samples: int, baseline: str | None = None) -> REDQSAC:
        return REDQSAC(
            "MlpPolicy",
            "Pendulum-v1",
            seed=0,
            actor_gradient="reinforce",
            n_actor_samples=n_samples,
            reinforce_baseline=baseline,
            policy_kwargs=dict(net_arch=[4], n_critics=2),
        )

    def loss(model: REDQSAC) -> float:
        th.manual_seed(0)
        obs = th.ones(2, 3)
        return model.updater.step_actor(obs, model.updater.sample_policy(obs), th.tensor(0.3))[0].item()

    assert loss(model(3)) == loss(model(3, "loo")) != loss(model(3, "none"))
    assert loss(model(1)) == loss(model(1, "mean_action")) != loss(model(1, "none"))


def test_normalized_advantages_turn_no_gradient() -> None:
    def gradient(**kwargs: Any) -> th.Tensor:
        model = REDQSAC("MlpPolicy", "Pendulum-v1", seed=0, actor_gradient="reinforce", n_actor_samples=4, **kwargs)
        model.actor.optimizer = th.optim.SGD(model.actor.parameters(), lr=0.0)
        th.manual_seed(1)
        obs = th.randn(16, 3)
        model.updater.step_actor(obs, model.updater.sample_policy(obs), th.tensor(0.3))
        return th.cat([parameter.grad.flatten() for parameter in model.actor.parameters()])

    # The mean over the minibatch is subtracted either way, and only the length differs
    plain, normalized = (
        gradient(reinforce_baseline="batch"),
        gradient(reinforce_baseline="none", normalize_advantage=True),
    )
    assert th.cosine_similarity(plain, normalized, dim=0).item() > 1 - 1e-5
    assert not th.allclose(plain.norm(), normalized.norm(), rtol=0.1)
    others = gradient(reinforce_baseline="loo"), gradient(reinforce_baseline="none")
    assert all(th.cosine_similarity(plain, other, dim=0).item() < 1 - 1e-4 for other in others)
