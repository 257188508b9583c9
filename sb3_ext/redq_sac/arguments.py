"""Checks of REDQSAC's own arguments, and the defaults of those that are None. A wrong one raises a ValueError."""

from typing import TYPE_CHECKING

from stable_baselines3 import HerReplayBuffer

from sb3_ext.checks import check_choice, check_integer, check_interval
from sb3_ext.functional.ensemble import ACTOR_QS, TARGET_BACKUPS
from sb3_ext.functional.policy_gradient import ACTOR_GRADIENTS, BASELINES, Baseline
from sb3_ext.redq_sac.plan import JOINT_GRADIENTS, TARGET_NETWORKS
from sb3_ext.redq_sac.policies import POLICY_ALIASES, REDQSACPolicy
from sb3_ext.redq_sac.temperature import check_target_entropy, starting_temperature

if TYPE_CHECKING:
    from sb3_ext.redq_sac.redq_sac import REDQSAC


def check_arguments(model: "REDQSAC") -> None:
    """Check what can be checked before networks are built."""
    if not issubclass(model.policy_class, REDQSACPolicy):
        raise ValueError(
            f"policy={model.policy_class.__name__} must be a subclass of {REDQSACPolicy.__name__}: give "
            f"{', '.join(map(repr, POLICY_ALIASES))}. A file of SB3's SAC can be converted: "
            "sb3_ext.redq_sac.from_sac(SAC.load(path))"
        )
    check_choice("target_backup", model.target_backup, TARGET_BACKUPS)
    check_choice("actor_gradient", model.actor_gradient, ACTOR_GRADIENTS)
    check_choice("actor_q", model.actor_q, ACTOR_QS)
    check_choice("reinforce_baseline", model.reinforce_baseline, (None, *BASELINES))
    check_choice("normalize_advantage", model.normalize_advantage, (True, False))
    check_choice("cuda_graphs", model.cuda_graphs, (True, False))
    check_choice("buffer_device", model.buffer_device, ("auto", "cpu"))
    check_choice("target_network", model.target_network, TARGET_NETWORKS)
    check_choice("joint_gradient", model.joint_gradient, JOINT_GRADIENTS)
    check_choice("normalize_returns", model.normalize_returns, (True, False))
    check_integer("noise_repeat", model.noise_repeat, minimum=1)
    model._require_effect("noise_repeat", model.noise_repeat == 1 or not model.use_sde, "use_sde=False", otherwise=1)
    check_integer("n_actor_samples", model.n_actor_samples, minimum=1)
    interval: float = model.target_update_interval
    if isinstance(interval, float) and interval.is_integer():  # 1e3 in a YAML file is a float
        interval = int(interval)
    check_integer("target_update_interval", interval, minimum=1)
    if model.policy_delay is not None:
        check_integer("policy_delay", model.policy_delay, minimum=1)
    check_interval("tau", model.tau, 0.0, 1.0, "in [0, 1]")
    if model.random_steps is not None:
        check_integer("random_steps", model.random_steps, minimum=0)
        acts_at_random = not (model.use_sde and model.use_sde_at_warmup)
        model._require_effect("random_steps", acts_at_random, needs="use_sde_at_warmup=False")
    starting_temperature(model.ent_coef)
    check_target_entropy(model.target_entropy)
    _check_actor_gradient(model)


def effective_baseline(model: "REDQSAC") -> Baseline:
    """Return ``reinforce_baseline``, or its default."""
    if model.reinforce_baseline is not None:
        return model.reinforce_baseline
    return "loo" if model.n_actor_samples >= 2 else "mean_action"


def _check_actor_gradient(model: "REDQSAC") -> None:
    if model.reinforce_baseline is not None:
        has_effect = model.actor_gradient == "reinforce"
        model._require_effect("reinforce_baseline", has_effect=has_effect, needs="actor_gradient='reinforce'")
    if model.normalize_advantage:
        has_effect = model.actor_gradient == "reinforce"
        model._require_effect("normalize_advantage", has_effect, needs="actor_gradient='reinforce'", otherwise=False)
        if model.n_actor_samples * model.batch_size < 2:
            raise ValueError(
                f"normalize_advantage=True with batch_size={model.batch_size} and n_actor_samples=1: one advantage has "
                "no standard deviation, so batch_size or n_actor_samples must be at least 2"
            )
    if effective_baseline(model) == "loo" and model.n_actor_samples < 2:
        raise ValueError(
            f"reinforce_baseline='loo' with n_actor_samples={model.n_actor_samples}: it needs n_actor_samples >= 2"
        )
    if model.use_sde and model.actor_gradient == "reinforce":
        raise ValueError("use_sde=True with actor_gradient='reinforce': gSDE is allowed with 'reparam' only")
    if model.use_sde and model.n_actor_samples > 1:
        raise ValueError(
            f"use_sde=True with n_actor_samples={model.n_actor_samples}: gSDE has one noise matrix for all samples "
            "of a state, so only n_actor_samples=1 is allowed"
        )


def check_ensemble(model: "REDQSAC") -> None:
    """Check what depends on the number of critics, whose default the policy knows."""
    n_critics = model.critic.n_critics
    if model.subset_size is not None:
        model._require_effect("subset_size", has_effect=model.target_backup == "redq", needs="target_backup='redq'")
        check_interval("subset_size", model.subset_size, 1, n_critics, f"in [1, n_critics={n_critics}]")
    if model.target_backup == "doubleq" and n_critics < 2:
        raise ValueError(f"target_backup='doubleq' with n_critics={n_critics}: it needs n_critics >= 2")
    is_half = model.joint_gradient == "half"
    needs = "critics with batch normalization, such as those of policy='NormalizedMlpPolicy'"
    model._require_effect("joint_gradient", is_half or model.critic.uses_batch_statistics, needs, otherwise="half")
    model.check_corrections()
    check_statistics(model)


def check_statistics(model: "REDQSAC") -> None:
    """Check what depends on batch normalization or on the environment, and may fit no longer when training begins."""
    uses_statistics = model.critic.uses_batch_statistics
    if uses_statistics and model.batch_size < 2:
        raise ValueError(f"batch_size={model.batch_size} with batch normalization: it needs batch_size >= 2")
    if model.target_network == "none" and not uses_statistics:
        raise ValueError(
            "target_network='none' needs critics with batch normalization, without which it usually diverges: give "
            "policy='NormalizedMlpPolicy', or tau=1 for targets from the present critics all the same"
        )
    if model.target_network == "none":
        is_default = model.target_update_interval == 1
        model._require_effect("target_update_interval", is_default, needs="target_network='ema'", otherwise=1)
    buffer_class = model.replay_buffer_class
    if model.normalize_returns and isinstance(buffer_class, type) and issubclass(buffer_class, HerReplayBuffer):
        raise ValueError(
            "normalize_returns=True with a HerReplayBuffer, whose relabelled rewards the scale does not see: only "
            "normalize_returns=False is allowed"
        )
    if model.normalize_returns and getattr(model._vec_normalize_env, "norm_reward", False):
        raise ValueError(
            "normalize_returns=True with VecNormalize(norm_reward=True): both would scale the rewards, so only one of "
            "them is allowed"
        )
