"""What an update of REDQ-SAC takes and returns, besides networks and data."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import torch as th
from gymnasium import spaces

from sb3_ext.functional.ensemble import ActorQ, TargetBackup
from sb3_ext.functional.policy_gradient import ActorGradient, Baseline
from sb3_ext.functional.traces import NStepCorrection

TargetNetwork = Literal["ema", "none"]
TARGET_NETWORKS: tuple[TargetNetwork, ...] = get_args(TargetNetwork)
JointGradient = Literal["half", "full"]
JOINT_GRADIENTS: tuple[JointGradient, ...] = get_args(JointGradient)


@dataclass(frozen=True)
class UpdateSettings:
    """
    Everything that determines an update, besides networks, optimizers and data.

    The names are those of ``REDQSAC``'s arguments. ``subset_size``, ``reinforce_baseline`` and ``trace_lambda`` have
    their defaults filled in, and ``target_entropy`` is a number. Each recording belongs to one value of this object.
    """

    gamma: float
    tau: float
    target_backup: TargetBackup
    subset_size: float
    backup_entropy: bool
    actor_gradient: ActorGradient
    n_actor_samples: int
    reinforce_baseline: Baseline
    normalize_advantage: bool
    actor_q: ActorQ
    target_entropy: float
    use_sde: bool
    target_network: TargetNetwork
    joint_gradient: JointGradient
    n_step_correction: NStepCorrection
    trace_lambda: float
    compile: bool
    autocast_dtype: str | None


class Plan(NamedTuple):
    """
    What follows the critic updates of a block.

    :param moves_targets: for each critic update, whether the target critics move after it
    :param updates_actor: whether actor and temperature are updated with the last minibatch
    """

    moves_targets: tuple[bool, ...]
    updates_actor: bool

    @property
    def n_updates(self) -> int:
        """The number of critic updates."""
        return len(self.moves_targets)


class BlockResult(NamedTuple):
    """
    What a block of n critic updates returns.

    :param metrics: for each metric its k values, shape (k,), to log as ``train/<name>``
    :param errors: errors of the transitions of each minibatch, shape (n, B); ``None`` if not drawn by priority
    """

    metrics: dict[str, th.Tensor]
    errors: th.Tensor | None


class PolicySample(NamedTuple):
    """
    K actions of the current policy in each of B states.

    :param actions: shape (K, B, A)
    :param log_prob: shape (K, B), differentiable with respect to the policy
    :param mode: the action at the policy's mean, shape (1, B, A), detached; only for the baseline of REINFORCE
    :param statistics: those of the actor's batch normalization, detached
    """

    actions: th.Tensor
    log_prob: th.Tensor
    mode: th.Tensor | None = None
    statistics: tuple[th.Tensor, ...] = ()


class Temperature(NamedTuple):
    """
    The weight alpha of the entropy, in SB3's form.

    :param log_ent_coef: log alpha, shape (1,), if it is learned
    :param optimizer: optimizer of ``log_ent_coef``
    :param fixed: alpha, if it is not learned
    """

    log_ent_coef: th.Tensor | None
    optimizer: th.optim.Optimizer | None
    fixed: th.Tensor | None

    def ent_coef(self) -> th.Tensor:
        """Return alpha, detached, shape () or (1,)."""
        if self.log_ent_coef is not None:
            return self.log_ent_coef.detach().exp()
        assert self.fixed is not None
        return self.fixed


# Limits of one block of minibatches, which always holds at least one. The actor's pass holds the activations of all
# rows, so their number is limited. The limit of observation elements keeps arrays in a CPU's caches, and their memory
# with the process. It allows 5 minibatches of 256 Humanoid states.
_MAX_BLOCK_ROWS = 8192
_MAX_BLOCK_ELEMENTS = 2**19


def largest_block(batch_size: int, observation_space: spaces.Space, fits_caches: bool) -> int:
    """
    Return the largest number of minibatches to prepare together.

    :param fits_caches: whether the elements should fit into a CPU's caches
    """
    max_rows = _MAX_BLOCK_ROWS
    if fits_caches:
        max_rows = min(max_rows, _MAX_BLOCK_ELEMENTS // spaces.utils.flatdim(observation_space))
    return max(max_rows // batch_size, 1)


def plan_block(n_done: int, n_at_most: int, policy_delay: int, target_update_interval: int) -> Plan:
    """
    Plan the critic updates until the next update of the actor, or fewer.

    :param n_done: critic updates before the block, over the whole run
    :param n_at_most: critic updates in the block
    :param policy_delay: critic updates for each update of the actor
    :param target_update_interval: critic updates for each update of the target critics
    """
    n_updates = min(n_at_most, policy_delay - n_done % policy_delay)
    counts = range(n_done + 1, n_done + n_updates + 1)
    return Plan(
        moves_targets=tuple(count % target_update_interval == 0 for count in counts),
        updates_actor=counts[-1] % policy_delay == 0,
    )
