"""Units, features and gradients of networks, observed through hooks."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch as th
from torch import nn
from torch.utils.hooks import RemovableHandle

from sb3_ext.functional.diagnosis import dormancy_scores, effective_rank
from sb3_ext.nets import CosineEmbedding, EnsembleNetwork

# The modules whose outputs are units. The embedding of quantile levels ends in a ReLU of its own.
_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Tanh, nn.Sigmoid, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Softplus, nn.Softsign),
    CosineEmbedding,
)


class NetworkObserver:
    """
    Collects how active the units are and what goes into the last layers, in every forward pass while it is entered.

    :param network: the network whose units count, features extractor included
    :param heads: the output layers of each critic, see :func:`~sb3_ext.nets.output_layers.output_layers`
    """

    def __init__(self, network: nn.Module, heads: Sequence[Sequence[nn.Module]]) -> None:
        self._heads = heads
        self._activations = [module for module in network.modules() if isinstance(module, _ACTIVATIONS)]
        ensembles = [module for module in network.modules() if isinstance(module, EnsembleNetwork)]
        self._stacked = {id(module) for ensemble in ensembles for module in ensemble.modules()}
        self._handles: list[RemovableHandle] = []
        self._scores: list[th.Tensor] = []
        self._inputs: dict[int, th.Tensor] = {}

    def __enter__(self) -> "NetworkObserver":
        for module in self._activations:
            self._handles.append(module.register_forward_hook(self._see_units))
        for layer in {id(layer): layer for layers in self._heads for layer in layers}.values():
            self._handles.append(layer.register_forward_pre_hook(self._see_features))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _see_units(self, module: nn.Module, inputs: Any, output: th.Tensor) -> None:
        # A channel of an image is one unit, as in Sokar et al. Each of several stacked networks has units of its own.
        # Otherwise only the last axis holds units: those before it are states and quantile levels.
        unit_axes = {1} if output.ndim in (4, 5) else {output.ndim - 1}
        if id(module) in self._stacked:
            unit_axes = {0, output.ndim - 1}
        others = [axis for axis in range(output.ndim) if axis not in unit_axes]
        # Not later: the next layer may overwrite the output.
        self._scores.append(dormancy_scores(output.detach().abs().mean(dim=others)))

    def _see_features(self, module: nn.Module, inputs: tuple[th.Tensor, ...]) -> None:
        self._inputs[id(module)] = inputs[0].detach().clone()

    @property
    def scores(self) -> list[th.Tensor]:
        """Dormancy scores of each layer, shape (H,) or (N, H)."""
        return self._scores

    def feature_rank(self, delta: float) -> float | None:
        """
        Measure the effective rank of each critic's features, averaged over critics; ``None`` if no features were seen.

        :param delta: see :func:`~sb3_ext.functional.diagnosis.effective_rank`
        """
        ranks: list[int] = []
        for layers in self._heads:
            features = [self._inputs[id(layer)] for layer in layers if id(layer) in self._inputs]
            if not features:
                continue
            if id(layers[0]) in self._stacked:
                ranks += [effective_rank(member, delta) for member in features[0]]
                continue
            # The value is the mean over quantile levels, if there are any, and so linear in the mean of the features.
            matrices = [part.flatten(1, -2).mean(dim=1) if part.ndim > 2 else part for part in features]
            ranks.append(effective_rank(th.cat(matrices, dim=1), delta))
        return sum(ranks) / len(ranks) if ranks else None


class GradientNorms:
    """
    Measures the gradients that optimizers are given, at every update.

    The gradients that SB3 leaves behind after an update would not do. The backward pass of the actor goes through the
    critics and adds to what they learned from.

    :param optimizers: by name
    """

    def __init__(self, optimizers: Mapping[str, th.optim.Optimizer]) -> None:
        self._optimizers = optimizers
        self._handles: list[RemovableHandle] = []
        self._norms: dict[int, th.Tensor] = {}
        self._counts: dict[int, int] = defaultdict(int)

    def attach(self) -> None:
        """Start to look at every update."""
        for optimizer in self._optimizers.values():
            self._handles.append(optimizer.register_step_pre_hook(self._see_gradients))

    def follow(self, optimizers: Mapping[str, th.optim.Optimizer]) -> None:
        """Look at these optimizers from now on, by name."""
        if dict(optimizers) != dict(self._optimizers):
            self.detach()
            self._optimizers = optimizers
            self.attach()

    def detach(self) -> None:
        """Stop, and leave the optimizers as they were."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _see_gradients(self, optimizer: th.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # A recording of updates (CUDA graphs) runs no Python when it is replayed, and would repeat this sum.
        if th.cuda.is_available() and th.cuda.is_current_stream_capturing():
            return
        norm = total_norm(parameter for group in optimizer.param_groups for parameter in group["params"])
        key = id(optimizer)
        # The sum stays on the device, so that the host need not wait for it here.
        self._norms[key] = self._norms[key] + norm if key in self._norms else norm
        self._counts[key] += 1

    def pop(self, name: str) -> float | None:
        """Take an optimizer's mean norm of the updates since the last call; ``None`` if there was no update."""
        key = id(self._optimizers.get(name))
        norm, count = self._norms.pop(key, None), self._counts.pop(key, 0)
        return None if norm is None else float(norm) / count


def total_norm(parameters: Iterable[th.Tensor]) -> th.Tensor:
    """Compute the Euclidean norm of all gradients together, a scalar."""
    return th.nn.utils.get_total_norm([p.grad.detach() for p in parameters if p.grad is not None])


def finite_or_none(value: float | None) -> float | None:
    """Replace a measurement that is not finite by ``None``."""
    return value if value is not None and math.isfinite(value) else None
