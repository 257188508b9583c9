"""A training that has diverged stops before it spoils its networks, its log or its checkpoints."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch as th
from torch import nn

from sb3_ext.buffers.samples import AnySamples


def total_norm(tensors: Sequence[th.Tensor]) -> th.Tensor:
    """
    Return the norm of all numbers in tensors of one device and type, shape ().

    The result is that of ``torch.nn.utils.get_total_norm``, which first groups the tensors by device and type. That
    takes longer than the norm itself in small networks.

    It is also infinite where only a square overflows. Adam stores such a square, and that parameter never moves again.
    """
    return th.linalg.vector_norm(th.stack(th._foreach_norm(list(tensors)))) if tensors else th.zeros(())


class DivergenceCheck:
    """
    Raises a ValueError when a loss or the norm of its gradient is not finite, because rl_zoo3 prunes a trial for it.

    :param remedies: what may help, for the message: a plural subject that begins a sentence
    """

    def __init__(self, remedies: str) -> None:
        self.remedies = remedies
        self._last_finite: dict[str, tuple[float, ...]] = {}
        self._policy: nn.Module | None = None
        self._learned: Mapping[str, th.Tensor] = {}
        self.num_timesteps = 0
        self.reads_back = False
        #: Number of updates so far
        self.n_updates = 0
        #: The data of the next updates. The message names values in it that are not finite
        self.samples: AnySamples | None = None

    def start(self, policy: nn.Module, num_timesteps: int, reads_back: bool, learned: Mapping[str, th.Tensor]) -> None:
        """
        Prepare for one call of ``train()``.

        :param learned: what is learned outside the policy, by name
        :param reads_back: whether values are read before each step of an optimizer. Where the host would have to wait
            for the device, only :meth:`check_metrics` reads them
        """
        self._policy = policy
        self._learned = learned
        self.num_timesteps = num_timesteps
        self.reads_back = reads_back

    def next_updates(self, n_updates: int, samples: AnySamples) -> None:
        """Tell which updates come next, after ``n_updates``, and what they learn from."""
        self.n_updates = n_updates
        self.samples = samples

    def before_step(self, name: str, loss: th.Tensor, grad_norm: th.Tensor | None = None) -> None:
        """Check a loss, or another number, and the norm of its gradient where values are read."""
        if self.reads_back:
            self.check(name, loss.item(), None if grad_norm is None else grad_norm.item())

    def check_metrics(self, metrics: Mapping[str, Sequence[float] | np.ndarray], names: Iterable[str]) -> None:
        """
        Check what is about to be logged, in the order of the updates.

        :param metrics: the values of each metric; that of ``critic_loss`` may have a companion ``critic_grad_norm``
        :param names: the metrics to check, where there are such
        """
        for name in names:
            values = metrics.get(name, ())
            norms = metrics.get(name.removesuffix("loss") + "grad_norm", [None] * len(values))
            for value, norm in zip(values, norms, strict=True):
                self.check(name, float(value), None if norm is None else float(norm))

    def check(self, name: str, loss: float, grad_norm: float | None = None) -> None:
        """Raise a ValueError if a number or the norm of its gradient is not finite."""
        values = (loss,) if grad_norm is None else (loss, grad_norm)
        if all(map(math.isfinite, values)):
            self._last_finite[name] = values
            return
        before = "none before it was finite"
        if name in self._last_finite:
            form = "the last finite {} was {:.6g}" + (", with a gradient norm of {:.6g}" if len(values) > 1 else "")
            before = form.format(name, *self._last_finite[name])
        norm = "" if grad_norm is None else f", gradient norm={grad_norm}"
        self._stop(f"{name}={loss}{norm}", before)

    def finish(self, parameters: Mapping[str, th.Tensor]) -> None:
        """
        End one call of ``train()``. A step can spoil a parameter although the gradient was finite.

        :param parameters: what was trained
        :raises ValueError: if a parameter is not finite
        """
        # The norm may also be infinite because a square overflows
        norm = total_norm([p.detach() for p in (*parameters.values(), *self._learned.values())]).item()
        if not math.isfinite(norm) and self._spoiled():
            self._stop("a parameter is not finite", "its gradient was finite")
        self.samples = None

    def _stop(self, what: str, before: str) -> None:
        spoiled = self._spoiled()
        kept = f"Checkpoints are intact, but {spoiled}" if spoiled else "Checkpoints and networks are intact"
        raise ValueError(
            f"the training has diverged: {what} at time step {self.num_timesteps}, about update {self.n_updates}; "
            f"{before}. {self._culprit()}{kept}. {self.remedies} may help"
        )

    def _spoiled(self) -> str:
        """Name the first number of the networks or learned outside them that is not finite, or return nothing."""
        of_policy = {} if self._policy is None else self._policy.state_dict(keep_vars=True)
        for name, tensor in (*of_policy.items(), *self._learned.items()):
            # An infinity that nothing changes is a mask
            is_changed = tensor.requires_grad or "running_" in name
            is_wrong = ~th.isfinite(tensor) if is_changed else th.isnan(tensor)
            if is_wrong.any():
                return f"{name} has become {tensor[is_wrong][0].item()}"
        return ""

    def _culprit(self) -> str:
        """Name the values in the samples that are not finite, as a sentence, or return nothing."""
        for name, field in () if self.samples is None else self.samples._asdict().items():
            for key, tensor in field.items() if isinstance(field, Mapping) else ((None, field),):
                if isinstance(tensor, th.Tensor) and tensor.is_floating_point() and not th.isfinite(tensor).all():
                    where = name if key is None else f"{name}[{key!r}]"
                    value = tensor[~th.isfinite(tensor)][0].item()
                    return f"The minibatch's {where} contain {value}, as the replay buffer gave them. "
        return ""
