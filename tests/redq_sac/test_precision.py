"""REDQSAC in bfloat16: near to float32, and exact where values and distributions are made."""

import torch as th

from sb3_ext.redq_sac.policies import gaussian_parameters
from tests.support.models import make
from tests.support.states import assert_same_training


def test_lower_precision_is_near_and_leaves_parameters_alone() -> None:
    plain, lower = make().learn(24), make(autocast_dtype="bfloat16").learn(24)
    assert_same_training(lower, plain, tolerance=0.05)
    assert not th.equal(lower.critic.ensemble.layers[0].weight, plain.critic.ensemble.layers[0].weight)
    assert all(parameter.dtype == th.float32 for parameter in lower.policy.parameters())


def test_values_and_distributions_keep_their_digits_in_lower_precision() -> None:
    model = make(autocast_dtype="bfloat16", policy_kwargs=dict(net_arch=[64]))
    critic, actor = model.critic, model.actor
    with th.no_grad():
        for bias in (critic.ensemble.layers[-1].bias, actor.mu.bias, actor.log_std.bias):
            bias.add_(1.502)  # bfloat16 knows 1.5 and 1.508
        obs, actions = th.rand(256, 3), th.rand(256, 1)
        for function, args in ((critic.stacked, (obs, actions)), (gaussian_parameters, (actor, obs))):
            exact, lower = function(*args), model.evaluator(function, *args)
            for one, other in zip(th.atleast_2d(exact), th.atleast_2d(lower), strict=True):
                assert not th.equal(one, other)
                # Rounded to 8 bits there would be some dozens of values
                assert len(other.unique()) > 200


def test_gsde_in_lower_precision() -> None:
    assert make(autocast_dtype="bfloat16", use_sde=True).learn(24)._n_updates > 0
