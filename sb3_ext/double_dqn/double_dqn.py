"""Double DQN."""

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.dqn.policies import DQNPolicy
from typing_extensions import Unpack

from sb3_ext.buffers.samples import AnySamples
from sb3_ext.common.value_based import ValueBasedAlgorithm, ValueBasedKwargs, ValueLoss, values_of_actions
from sb3_ext.double_dqn.policies import CnnPolicy, MlpPolicy, MultiInputPolicy
from sb3_ext.functional.bellman import huber_value_loss
from sb3_ext.functional.soft_value import soft_state_value


class DoubleDQN(ValueBasedAlgorithm):
    """
    Double DQN: the online network chooses the next action, the target network values it.

    Paper: https://arxiv.org/abs/1509.06461. With ``policy_kwargs=dict(dueling=True)``, a prioritised replay buffer and
    ``n_steps`` it is Rainbow (https://arxiv.org/abs/1710.02298) without noise and distribution. With
    ``double_q=False``, one environment and nothing else switched on it is SB3's ``DQN``, bit for bit.

    :param policy: the policy model to use (MlpPolicy, CnnPolicy, MultiInputPolicy, or a subclass of these)
    :param env: the environment to learn from (if registered in Gym, can be str)
    :param args: arguments of SB3's ``DQN`` after ``env``, in its order
    :param double_q: whether the online network chooses the next action; if not, it is DQN
    :param _init_setup_model: whether or not to build the network at the creation of the instance
    :param kwargs: those of SB3's ``DQN`` with its defaults, and ``target_clip``, ``learning_rate_final``,
        ``learning_rate_fraction``, ``compile``, ``autocast_dtype``: see
        :class:`~sb3_ext.common.value_based.ValueBasedAlgorithm`
    :raises ValueError: naming the argument, its value and what is allowed
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }

    def __init__(
        self,
        policy: str | type[DQNPolicy],
        env: GymEnv | str,
        *args: Any,
        double_q: bool = True,
        _init_setup_model: bool = True,
        **kwargs: Unpack[ValueBasedKwargs],
    ) -> None:
        super().__init__(policy, env, *args, double_q=double_q, _init_setup_model=_init_setup_model, **kwargs)

    def _compute_loss(self, batch: AnySamples, discounts: th.Tensor | float) -> ValueLoss:
        with th.no_grad():
            next_q, chooser = self._next_q_values(batch)
            next_values = soft_state_value("max", next_q, 0.0, chooser)
            targets = self._td_targets(batch, discounts, next_values)
        q_values = values_of_actions(self._evaluate(self.q_net, batch.observations), batch)
        errors = (q_values.detach() - targets).abs()
        return ValueLoss(huber_value_loss(q_values, targets), errors, {"q_value": q_values.detach().mean()})
