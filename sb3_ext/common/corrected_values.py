"""Corrected returns of value-based algorithms with discrete actions."""

from abc import abstractmethod

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork

from sb3_ext.buffers.samples import AnySamples, WindowSamples, first_steps, flat_observations, map_observations
from sb3_ext.common.corrected_returns import CorrectedReturns
from sb3_ext.functional.action_masks import count_allowed, gaps_to_best
from sb3_ext.functional.q_learning import greedy_log_policy
from sb3_ext.functional.traces import return_before_cut, return_correction, trace_coefficients


class CorrectedValues(CorrectedReturns):
    """
    Mix-in for algorithms whose network returns the values of A actions.

    An algorithm that learns values says what a state is worth (:meth:`state_values`). One that learns distributions
    returns the best actions (:meth:`best_actions`), and its windows end before the first action that is not the best.
    """

    policy: DQNPolicy
    q_net: QNetwork
    exploration_rate: float
    double_q: bool

    def state_values(self, next_q: th.Tensor, selector_q: th.Tensor | None) -> th.Tensor:
        """Hook: return the values of states, shape (B,), from what :meth:`next_q_values` returns."""
        raise NotImplementedError

    def learned_log_policy(self, q_values: th.Tensor) -> th.Tensor:
        """Hook: return log-probabilities of the policy whose values are learned, shape (B, A). By default greedy."""
        return greedy_log_policy(q_values)

    def acting_log_policy(self, q_values: th.Tensor) -> th.Tensor:
        """Hook: return those of the policy that acts, but for random actions of epsilon. By default greedy."""
        return greedy_log_policy(q_values)

    def learns_distributions(self) -> bool:
        """Hook: tell whether targets are distributions, which only ``"cut"`` can correct."""
        return False

    def best_actions(self, obs: PyTorchObs) -> th.Tensor:
        """Hook: return the actions whose distributions are targets, int64, shape (B,)."""
        raise NotImplementedError

    @abstractmethod
    def next_q_values(self, replay_data: AnySamples) -> tuple[th.Tensor, th.Tensor | None]: ...

    def _check_corrections(self) -> None:
        """Check what depends on the network."""
        correction = self.n_step_correction
        if self.learns_distributions() and correction not in ("none", "cut"):
            raise ValueError(
                f"n_step_correction={correction!r} is not defined for distributions of returns, whose differences are "
                "no distributions: only 'none' and 'cut' are allowed"
            )
        if self.keeps_log_probs and getattr(self.q_net, "noisy", False):
            raise ValueError(
                f"n_step_correction={correction!r} with noisy layers, whose actions have no known probability: only "
                "'none', 'cut' and 'tree_backup' are allowed"
            )

    def action_log_probs(self, actions: np.ndarray, is_random: bool) -> np.ndarray:
        """See the parent: log of ``(1 - epsilon) pi(a|s) + epsilon / A``, with the A actions that are not masked."""
        assert self._last_obs is not None
        self.policy.set_training_mode(False)
        obs, _ = self.policy.obs_to_tensor(self._last_obs)
        with th.no_grad():
            q_values = self.q_net(obs)
        chosen = th.as_tensor(actions.reshape(-1, 1), dtype=th.int64, device=q_values.device)
        epsilon = 1.0 if is_random else self.exploration_rate
        of_policy = self.acting_log_policy(q_values).gather(1, chosen).exp()
        probabilities = ((1 - epsilon) * of_policy + epsilon / count_allowed(gaps_to_best(q_values))).squeeze(1)
        # Without epsilon, rounding may have made another action the best when the batch was a different one
        return probabilities.where(probabilities > 0, 1.0).log().cpu().numpy()

    def corrected(self, windows: WindowSamples) -> AnySamples:
        """
        Turn B windows into B transitions, so that targets of one step become those of the corrected return.

        What the steps from the second on add to a target is added to the reward. Distributions of returns have no such
        sum: there the transition covers all steps before the first action that is not the best.
        """
        with th.no_grad():
            if self.learns_distributions():
                return self._before_cut(windows)
            first = first_steps(windows)
            return first._replace(rewards=first.rewards + self._correction(windows).unsqueeze(1))

    def _correction(self, windows: WindowSamples) -> th.Tensor:
        """Return what the steps from the second on add to the targets, shape (B,)."""
        flat = windows._replace(next_observations=flat_observations(windows.next_observations))
        next_q, selector_q = self.next_q_values(flat)
        shape = windows.rewards.shape
        next_values = self.state_values(next_q, selector_q).view(shape)
        # The states in which the steps from the second on begin are next states, too
        q_values = next_q.view(*shape, -1)[:, :-1]
        judged = q_values if selector_q is None else selector_q.view(*shape, -1)[:, :-1]
        actions = windows.actions[:, 1:].long()
        log_policy = self.learned_log_policy(judged.flatten(0, 1)).view(judged.shape)
        coefficients = trace_coefficients(
            self.n_step_correction,
            log_policy.gather(2, actions).squeeze(2),
            None if windows.log_probs is None else windows.log_probs[:, 1:],
            judged.argmax(dim=2) == actions.squeeze(2),
            self.effective_trace_lambda,
        )
        steps = windows.rewards[:, 1:], windows.dones[:, 1:], windows.valid[:, 1:], next_values[:, 1:]
        return return_correction(*steps, q_values.gather(2, actions).squeeze(2), coefficients, self.gamma)

    def _before_cut(self, windows: WindowSamples) -> AnySamples:
        taken = windows.actions[:, 1:, 0].long()
        is_best = th.ones_like(taken, dtype=th.bool)
        if taken.numel():
            best = self.best_actions(map_observations(_flat_from_second, windows.observations))
            is_best = best.view(taken.shape) == taken
        rewards, discounts, last = return_before_cut(windows.rewards, is_best, windows.valid, self.gamma)
        rows = th.arange(len(last), device=last.device)
        return first_steps(windows)._replace(
            next_observations=map_observations(lambda tensor: tensor[rows, last], windows.next_observations),
            dones=windows.dones[rows, last].unsqueeze(1),
            rewards=rewards.unsqueeze(1),
            discounts=discounts,
        )


def _flat_from_second(tensor: th.Tensor) -> th.Tensor:
    return tensor[:, 1:].flatten(0, 1)
