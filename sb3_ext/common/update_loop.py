"""
One training loop for every algorithm whose only loss and optimizer are those of its policy.

Each update samples, computes the loss, clips its gradient, checks for divergence, takes a step, updates priorities and
logs. An algorithm supplies the loss. The loop depends neither on discrete actions nor on a target network.
"""

import math
from abc import abstractmethod
from collections import defaultdict
from typing import NamedTuple

import numpy as np
import torch as th

from sb3_ext.buffers.samples import (
    AnySamples,
    SupportsPriorities,
    minibatch_weights,
    sample_replay,
    transition_discounts,
    update_priorities,
)
from sb3_ext.common.off_policy import OffPolicyExtension


class TransitionLosses(NamedTuple):
    """
    The losses of one minibatch.

    :param losses: the loss of each transition, shape (B,), differentiable
    :param errors: the prediction error of each transition, shape (B,), detached, for prioritized buffers
    :param metrics: scalars to log as ``train/<name>``, detached
    """

    losses: th.Tensor
    errors: th.Tensor
    metrics: dict[str, th.Tensor]


class UpdateLoop(OffPolicyExtension):
    """
    Mix-in that trains ``policy`` with ``policy.optimizer``, to be put before the SB3 class.

    An algorithm implements :meth:`compute_loss`. All replay buffers of this package work, prioritized ones included.

    Training stops when the loss is not finite. The earliest sign of divergence is ``train/grad_norm``, the norm of the
    gradient before it is clipped.
    """

    max_grad_norm: float = math.inf
    _remedies_of_divergence = "A smaller learning_rate, a smaller max_grad_norm or clipped rewards"
    # The last finite loss and the norm of its gradient
    _last_finite: tuple[float, float] | None = None

    @abstractmethod
    def compute_loss(self, replay_data: AnySamples, discounts: th.Tensor | float) -> TransitionLosses:
        """
        Hook: return the loss and the error of each transition, and metrics to log.

        :param replay_data: B transitions, or whatever :meth:`sample_minibatch` returns
        :param discounts: one number, or one for each transition, shape (B,)
        """

    def sample_minibatch(self, batch_size: int) -> AnySamples:
        """Hook: return the data of one update."""
        assert self.replay_buffer is not None
        return sample_replay(self.replay_buffer, batch_size, self._vec_normalize_env, self._current_progress_remaining)

    def _after_update(self, result: TransitionLosses) -> None:
        """Hook: do what must follow each update of the network. Nothing by default."""

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Update the network ``gradient_steps`` times, each time on a fresh minibatch.

        :raises ValueError: if the loss is not finite
        """
        assert self.replay_buffer is not None
        self.evaluator.configure(self.compile, self.autocast_dtype)
        self._begin_updates(self.policy.optimizer)
        # Read values back where that costs nothing: on a CPU, or with a prioritized buffer, which waits for the errors
        # anyway. The network is then still intact when training stops. Elsewhere the host waits for the device once a
        # call.
        reads_back = self.device.type == "cpu" or isinstance(self.replay_buffer, SupportsPriorities)

        metrics: dict[str, list[th.Tensor]] = defaultdict(list)
        for _ in range(gradient_steps):
            replay_data = self.sample_minibatch(batch_size)
            result = self.compute_loss(replay_data, transition_discounts(replay_data, self.gamma))
            weights = minibatch_weights(replay_data)
            loss = result.losses.mean() if weights is None else (weights * result.losses).mean()

            self.policy.optimizer.zero_grad()
            loss.backward()
            grad_norm = th.nn.utils.get_total_norm([p.grad for p in self.policy.parameters() if p.grad is not None])
            if reads_back:
                self._check_divergence(loss.item(), grad_norm.item())
            self._clip_gradients(grad_norm, reads_back)
            self.policy.optimizer.step()
            update_priorities(self.replay_buffer, [replay_data], [result.errors])
            self._after_update(result)

            self._n_updates += 1
            for name, value in (("loss", loss.detach()), ("grad_norm", grad_norm), *result.metrics.items()):
                metrics[name].append(value)

        self._log_metrics(metrics)

    def _clip_gradients(self, grad_norm: th.Tensor, reads_back: bool) -> None:
        """Scale the gradients down to ``max_grad_norm``. Where the norm is cheap to read, a scale of 1 is skipped."""
        # 1e-6 is what PyTorch adds to the norm
        if not reads_back or grad_norm.item() > self.max_grad_norm * (1 - 1e-6) - 1e-6:
            th.nn.utils.clip_grads_with_norm_(self.policy.parameters(), self.max_grad_norm, grad_norm)

    def _log_metrics(self, metrics: dict[str, list[th.Tensor]]) -> None:
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        values = {name: th.stack(parts).cpu().numpy() for name, parts in metrics.items()}
        for loss, grad_norm in zip(values.get("loss", []), values.get("grad_norm", []), strict=True):
            self._check_divergence(float(loss), float(grad_norm))
        for name, array in values.items():
            self.logger.record(f"train/{name}", float(np.mean(array, dtype=np.float64)))

    def _check_divergence(self, loss: float, grad_norm: float) -> None:
        """Raise a ValueError if loss or gradient norm is not finite. Only with this type does rl_zoo3 prune a trial."""
        if np.isfinite(loss) and np.isfinite(grad_norm):
            self._last_finite = (loss, grad_norm)
            return
        before = "none before it was finite"
        if self._last_finite is not None:
            before = "the last finite loss was {:.6g}, with a gradient norm of {:.6g}".format(*self._last_finite)
        raise ValueError(
            f"the training has diverged: loss={loss}, gradient norm={grad_norm} at time step {self.num_timesteps}, "
            f"about update {self._n_updates}; {before}. Checkpoints are as they were (on a GPU the network "
            f"itself may no longer be whole). {self._remedies_of_divergence} may help"
        )

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_last_finite"]
