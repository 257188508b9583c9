"""Corrected returns over several steps with critics and a squashed Gaussian policy."""

import math
from typing import Any, ClassVar

import numpy as np
import torch as th

from sb3_ext.common.corrected_returns import CorrectedReturns
from sb3_ext.functional.traces import NStepCorrection
from sb3_ext.nets import ScalarHead
from sb3_ext.redq_sac.policies import REDQSACPolicy
from sb3_ext.redq_sac.window_targets import log_prob_of_actions


class CorrectedEnsemble(CorrectedReturns):
    """Mix-in for REDQSAC, whose policy has a density in place of probabilities."""

    policy: REDQSACPolicy
    random_steps: int | None = None
    # A density is no factor between 0 and 1, as tree backup needs it, and no action is the best
    allowed_corrections: ClassVar[tuple[NStepCorrection, ...]] = ("none", "retrace", "importance")

    def _check_arguments(self) -> None:
        super()._check_arguments()
        if "critic" in vars(self):  # attributes may have been set since the model was made
            self.check_corrections()

    def check_corrections(self) -> None:
        """Check what ``n_step_correction`` needs from policy and networks, or raise a ValueError."""
        model: Any = self
        if self.n_step_correction == "none":
            return
        reasons = {
            "head='categorical'": not isinstance(model.critic.head, ScalarHead),
            "batch normalization": model.critic.uses_batch_statistics,
            "use_sde=True": model.use_sde,
            f"noise_repeat={model.noise_repeat}": model.noise_repeat > 1,
            "action_noise": model.action_noise is not None,
        }
        for name, is_given in reasons.items():
            if is_given:
                raise ValueError(
                    f"n_step_correction={self.n_step_correction!r} with {name} is not defined: it needs critics of "
                    "values without batch normalization, such as those of 'MlpPolicy', and actions of the Gaussian "
                    "policy itself"
                )

    def _warm_up(self, learning_starts: int) -> int:
        return learning_starts if self.random_steps is None else self.random_steps

    def action_log_probs(self, actions: np.ndarray, is_random: bool) -> np.ndarray:
        """See the parent. Uniform actions in [-1, 1] have the density 2^-A."""
        assert self._last_obs is not None
        flat = actions.reshape(len(actions), -1)
        if is_random:
            return np.full(len(flat), -flat.shape[1] * math.log(2))
        policy = self.policy
        policy.set_training_mode(False)
        obs, _ = policy.obs_to_tensor(self._last_obs)
        chosen = th.as_tensor(flat, dtype=th.float32, device=self.device)
        with th.no_grad():
            return log_prob_of_actions(self.evaluator, policy.actor, obs, chosen).cpu().numpy()
