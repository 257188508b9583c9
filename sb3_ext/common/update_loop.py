"""
One training loop for every algorithm whose only loss and optimizer are those of its policy.

Each update samples, computes the loss, clips its gradient, checks for divergence, takes a step, updates priorities and
logs. An algorithm supplies the loss. The loop depends neither on discrete actions nor on a target network.
"""

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Sequence
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
from sb3_ext.common.divergence import total_norm
from sb3_ext.common.networks import check_networks
from sb3_ext.common.off_policy import OffPolicyExtension
from sb3_ext.nets.noisy import with_noisy_policy
from sb3_ext.speed.float32 import with_float32_matmul_precision


class TransitionLosses(NamedTuple):
    """
    The losses of one minibatch.

    :param losses: the loss of each transition, shape (B,), differentiable
    :param errors: the prediction error of each transition, shape (B,), detached, for prioritized buffers
    :param metrics: scalars to log as ``train/<name>``, detached
    :param statistics: those of the network's batch normalization, for :meth:`UpdateLoop._after_update`
    """

    losses: th.Tensor
    errors: th.Tensor
    metrics: dict[str, th.Tensor]
    statistics: Sequence[th.Tensor] = ()


class UpdateLoop(OffPolicyExtension):
    """
    Mix-in that trains ``policy`` with ``policy.optimizer``, to be put before the SB3 class.

    An algorithm implements :meth:`compute_loss`. All replay buffers of this package work, prioritized ones included.

    Training stops when the loss is not finite. The earliest sign of divergence is ``train/grad_norm``, the norm of the
    gradient before it is clipped.
    """

    max_grad_norm: float = math.inf
    _remedies_of_divergence = "A smaller learning_rate, a smaller max_grad_norm or clipped rewards"

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

    @with_float32_matmul_precision
    @with_noisy_policy
    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """
        Update the network ``gradient_steps`` times, each time on a fresh minibatch.

        :raises ValueError: if the loss, the norm of its gradient or a parameter is not finite
        """
        assert self.replay_buffer is not None
        trained = self._trained_parameters()
        parameters = list(trained.values())
        self.evaluator.configure(self.compile, self.autocast_dtype)
        self._begin_updates(self.policy.optimizer)
        # Read values back where that costs nothing: on a CPU, or with a prioritized buffer, which waits for the errors
        # anyway. The network is then still intact when training stops. Elsewhere the host waits for the device once a
        # call.
        reads_back = self.device.type == "cpu" or isinstance(self.replay_buffer, SupportsPriorities)
        self._divergence.start(self.policy, self.num_timesteps, reads_back, self._learned_tensors())

        metrics: dict[str, list[th.Tensor]] = defaultdict(list)
        for _ in range(gradient_steps):
            replay_data = self.sample_minibatch(batch_size)
            result = self.compute_loss(replay_data, transition_discounts(replay_data, self.gamma))
            weights = minibatch_weights(replay_data)
            loss = result.losses.mean() if weights is None else (weights * result.losses).mean()

            self.policy.optimizer.zero_grad()
            loss.backward()
            grad_norm = total_norm([p.grad for p in parameters if p.grad is not None])
            self._divergence.next_updates(self._n_updates, replay_data)
            self._divergence.before_step("loss", loss, grad_norm)
            self._clip_gradients(parameters, grad_norm, reads_back)
            self.policy.optimizer.step()
            update_priorities(self.replay_buffer, [replay_data], [result.errors])
            self._after_update(result)

            self._n_updates += 1
            for name, value in (("loss", loss.detach()), ("grad_norm", grad_norm), *result.metrics.items()):
                metrics[name].append(value)

        self._log_metrics(metrics)
        self._divergence.finish(trained)

    def _trained_parameters(self) -> dict[str, th.nn.Parameter]:
        """Hook: check networks and optimizer, and return the parameters that are trained, by name."""
        return check_networks(self, [self.policy.optimizer])[0]

    def _clip_gradients(self, parameters: list[th.nn.Parameter], grad_norm: th.Tensor, reads_back: bool) -> None:
        """Scale the gradients down to ``max_grad_norm``. Where the norm is cheap to read, a scale of 1 is skipped."""
        # 1e-6 is what PyTorch adds to the norm
        if not reads_back or grad_norm.item() > self.max_grad_norm * (1 - 1e-6) - 1e-6:
            th.nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, grad_norm)

    def _log_metrics(self, metrics: dict[str, list[th.Tensor]]) -> None:
        values = {name: th.stack(parts).cpu().numpy() for name, parts in metrics.items()}
        self._divergence.check_metrics(values, ["loss", "temperature"])
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, array in values.items():
            self.logger.record(f"train/{name}", float(np.mean(array, dtype=np.float64)))
