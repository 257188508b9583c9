"""
One training loop for every algorithm with a single loss and a single optimizer: the policy's.

Sample, loss, clip, divergence check, step, priorities, logging. An algorithm supplies the loss; whether its actions are
discrete, and whether there is a target network, is its own affair.
"""

import math
from abc import abstractmethod
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch as th

from sb3_ext.buffers.samples import AnySamples, SupportsPriorities, minibatch_weights, sample_replay, update_priorities
from sb3_ext.common.off_policy import OffPolicyExtension


class TransitionLosses(NamedTuple):
    """
    What an algorithm makes of one minibatch.

    :param losses: of each transition, shape (B,), differentiable
    :param errors: how wrong each prediction was, shape (B,), detached: the priorities of a prioritized buffer
    :param metrics: scalars to be logged as ``train/<name>``, detached
    """

    losses: th.Tensor
    errors: th.Tensor
    metrics: dict[str, th.Tensor]


class UpdateLoop(OffPolicyExtension):
    """
    Mix-in that trains ``policy`` by ``policy.optimizer``. An algorithm supplies :meth:`compute_loss`; put this class
    before the SB3 class.

    Any replay buffer of this package will do, prioritized ones included. The norm of the gradient before it is clipped
    is logged as ``train/grad_norm``, the earliest sign of divergence; training stops when the loss is not finite.
    """

    max_grad_norm: float = math.inf
    # Of the last update whose loss was finite: the loss and the norm of its gradient
    _last_finite: tuple[float, float] | None = None

    @abstractmethod
    def compute_loss(self, replay_data: AnySamples, discounts: th.Tensor | float) -> TransitionLosses:
        """
        :param replay_data: B transitions, or whatever :meth:`sample_minibatch` returns
        :param discounts: of each, shape (B,), or of all of them
        """

    def sample_minibatch(self, batch_size: int) -> AnySamples:
        """
        Hook: the data of one update.
        """
        assert self.replay_buffer is not None
        return sample_replay(self.replay_buffer, batch_size, self._vec_normalize_env, self._current_progress_remaining)

    def _after_update(self, result: TransitionLosses) -> None:
        """
        Hook: called after each update of the network.
        """

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Update the network ``gradient_steps`` times, each time on a fresh minibatch.

        :param batch_size: rows of one minibatch
        :raises ValueError: if the loss is not finite
        """
        assert self.replay_buffer is not None
        self._begin_updates(self.policy.optimizer)
        # Reading a value back is free on a CPU, and a prioritized buffer waits for the errors anyway: then the network
        # is still whole when the training stops. Elsewhere the host waits for the device once a call.
        reads_back = self.device.type == "cpu" or isinstance(self.replay_buffer, SupportsPriorities)

        metrics: dict[str, list[th.Tensor]] = defaultdict(list)
        for _ in range(gradient_steps):
            replay_data = self.sample_minibatch(batch_size)
            # n-step returns have a discount of their own for each transition
            discounts = replay_data.discounts.flatten() if replay_data.discounts is not None else self.gamma
            result = self.compute_loss(replay_data, discounts)
            weights = minibatch_weights(replay_data)
            loss = result.losses.mean() if weights is None else (weights * result.losses).mean()

            self.policy.optimizer.zero_grad()
            loss.backward()
            # `clip_grad_norm_` in its two parts: the second one would multiply everything by 1 most of the time
            grad_norm = th.nn.utils.get_total_norm([p.grad for p in self.policy.parameters() if p.grad is not None])
            if reads_back:
                self._check_divergence(loss.item(), grad_norm.item())
            if not reads_back or grad_norm.item() > self.max_grad_norm * (1 - 1e-6) - 1e-6:
                th.nn.utils.clip_grads_with_norm_(self.policy.parameters(), self.max_grad_norm, grad_norm)
            self.policy.optimizer.step()
            update_priorities(self.replay_buffer, [replay_data], [result.errors])
            self._after_update(result)

            self._n_updates += 1
            for name, value in (("loss", loss.detach()), ("grad_norm", grad_norm), *result.metrics.items()):
                metrics[name].append(value)

        self._log_metrics(metrics)

    def _log_metrics(self, metrics: dict[str, list[th.Tensor]]) -> None:
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        values = {name: th.stack(parts).cpu().numpy() for name, parts in metrics.items()}
        for loss, grad_norm in zip(values.get("loss", []), values.get("grad_norm", []), strict=True):
            self._check_divergence(float(loss), float(grad_norm))
        for name, array in values.items():
            self.logger.record(f"train/{name}", float(np.mean(array, dtype=np.float64)))

    def _check_divergence(self, loss: float, grad_norm: float) -> None:
        """
        :param grad_norm: the norm of the loss's gradient
        :raises ValueError: if one of them is not finite. (Not another error: rl_zoo3 prunes the trial of a search then)
        """
        if np.isfinite(loss) and np.isfinite(grad_norm):
            self._last_finite = (loss, grad_norm)
            return
        before = "none before it was finite"
        if self._last_finite is not None:
            before = "the last finite loss was {:.6g}, with a gradient norm of {:.6g}".format(*self._last_finite)
        raise ValueError(
            f"the training has diverged: loss={loss}, gradient norm={grad_norm} at time step {self.num_timesteps}, "
            f"about update {self._n_updates}; {before}. Checkpoints are as they were (on a GPU the network "
            "itself may no longer be whole). A smaller learning_rate, a "
            "smaller max_grad_norm, target_clip or clipped rewards may help"
        )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_last_finite"]
