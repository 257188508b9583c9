"""
How fast REDQ could be: the arithmetic that an update cannot do without, and how much of it a machine does in a second,
with large matrices (the roofline) and with those of an update.

Only matrix products count, which is nearly everything: activations, losses, optimiser and sampling come on top.
"""

import time
from dataclasses import dataclass

import torch as th


@dataclass(frozen=True)
class Work:
    """
    One critic update of REDQ, with its share of the rest.

    :param n_observations: length of the observation
    :param n_actions: length of the action
    :param n_critics: N
    :param batch_size: B
    :param width: units of each of two hidden layers
    :param subset_size: M, critics in a target
    :param policy_delay: critic updates for each update of the actor
    """

    n_observations: int
    n_actions: int
    n_critics: int = 10
    batch_size: int = 256
    width: int = 256
    subset_size: int = 2
    policy_delay: int = 20

    def flops(self) -> float:
        """
        Multiplications and additions: 2 for each weight and row in a forward pass, as many for the gradient of the
        weights, and as many for the gradient of a layer's input where somebody needs it.

        :return: number of them in one critic update
        """
        first, rest = (self.n_observations + self.n_actions) * self.width, self.width**2 + self.width
        actor_first = self.n_observations * self.width
        actor_rest = self.width**2 + 2 * self.n_actions * self.width
        # Forward, gradient of the weights, gradient of the inputs of all layers but the first
        critics = self.n_critics * (2 * first + 3 * rest)
        targets = self.subset_size * (first + rest)
        next_actions = actor_first + actor_rest
        # The actor likewise; the critics forward and back to the action, of which only their first layer's columns
        actor = 2 * actor_first + 3 * actor_rest
        through_critics = self.n_critics * (first + 2 * rest + self.n_actions * self.width)
        per_row = critics + targets + next_actions + (actor + through_critics) / self.policy_delay
        return 2.0 * self.batch_size * per_row


def matrix_flops(dtype: th.dtype, device: str = "cpu", seconds: float = 0.2) -> float:
    """
    What the machine does at best: the fastest of several products of large square matrices.

    :param dtype: of the matrices
    :param device: on which
    :param seconds: how long to try
    :return: multiplications and additions per second
    """
    size = 8192 if device == "cuda" else 1024
    left, right = (th.rand(size, size, device=device).to(dtype) for _ in range(2))
    product = th.empty_like(left)

    def once() -> float:
        if device == "cuda":
            th.cuda.synchronize()
        start = time.perf_counter()
        th.mm(left, right, out=product)
        if device == "cuda":
            th.cuda.synchronize()
        return time.perf_counter() - start

    once()
    best, deadline = once(), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        best = min(best, once())
    return 2.0 * size**3 / best


class MatrixProducts:
    """
    The matrix products of critic updates and nothing else, as PyTorch does them: what of the roofline their shapes
    leave. (Without the layers that have one output, which are no matrix products in REDQSAC.)

    :param work: of one critic update
    :param dtype: of the matrices
    :param device: on which
    """

    def __init__(self, work: Work, dtype: th.dtype, device: str = "cpu") -> None:
        def random(*shape: int) -> th.Tensor:
            return th.rand(*shape, device=device).to(dtype)

        n, rows, width = work.n_critics, work.batch_size, work.width
        self.work = work
        self.inputs = random(rows, work.n_observations + work.n_actions).expand(n, -1, -1)
        self.hidden, self.gradient = random(n, rows, width), random(n, rows, width)
        self.first, self.second = random(n, self.inputs.shape[-1], width), random(n, width, width)
        self.actor_layers = [
            random(work.n_observations, width),
            random(width, width),
            random(width, 2 * work.n_actions),
        ]
        self.actor_inputs = [random(rows, layer.shape[0]) for layer in self.actor_layers]
        self.actor_gradients = [random(rows, layer.shape[1]) for layer in self.actor_layers]

    def update(self, n_updates: int) -> None:
        """
        :param n_updates: critic updates, a multiple of ``policy_delay``
        """
        subset = self.work.subset_size
        for update in range(1, n_updates + 1):
            for layer, inputs in zip(self.actor_layers, self.actor_inputs, strict=True):  # the next actions
                inputs @ layer
            self.inputs[:subset] @ self.first[:subset]
            self.hidden[:subset] @ self.second[:subset]
            self._critics()
            self.hidden.mT @ self.gradient
            self.gradient @ self.second.mT
            self.inputs.mT @ self.gradient
            if update % self.work.policy_delay == 0:
                self._actor()

    def _critics(self) -> None:
        self.inputs @ self.first
        self.hidden @ self.second

    def _actor(self) -> None:
        layers = zip(self.actor_layers, self.actor_inputs, self.actor_gradients, strict=True)
        for index, (layer, inputs, gradient) in enumerate(layers):
            inputs @ layer
            inputs.T @ gradient
            if index > 0:
                gradient @ layer.T
        self._critics()
        self.gradient @ self.second.mT
        self.gradient @ self.first[:, self.work.n_observations :].mT
