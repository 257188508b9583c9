"""
A callback for trials that changes arguments of a model while it trains.

    PYTHONPATH=benchmarks python -m rl_zoo3.train --algo redq_sac --env Humanoid-v4 \
        -params "callback:[{'change_at.ChangeAt':dict(step=105_000,gamma=0.98)}]"
"""

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

READ_AT_SETUP = ("learning_rate", "ent_coef", "target_entropy", "policy_kwargs", "buffer_size")


class ChangeAt(BaseCallback):
    """
    Sets attributes of the model once, at the first step that has reached ``step``.

    :param step: environment steps
    :param arguments: names of attributes and their new values
    """

    def __init__(self, step: int, **arguments: Any) -> None:
        super().__init__()
        self.step = step
        self.arguments = arguments
        self._is_done = False

    def _init_callback(self) -> None:
        for name, value in self.arguments.items():
            if not hasattr(self.model, name):
                raise ValueError(f"{name}={value!r}: a {type(self.model).__name__} has no such attribute")
            if name in READ_AT_SETUP:
                raise ValueError(f"{name}={value!r}: SB3 reads it at the set-up only, so a change has no effect")

    def _on_step(self) -> bool:
        if not self._is_done and self.num_timesteps >= self.step:
            self._is_done = True
            for name, value in self.arguments.items():
                setattr(self.model, name, value)
        return True
