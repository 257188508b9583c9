"""SB3's critic of continuous actions with its networks stacked: shared layers and a head."""

import re
from contextlib import nullcontext

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_ext.nets.absent import NamesSubstitutes
from sb3_ext.nets.body import NormalizedBody
from sb3_ext.nets.ensemble import EnsembleMLP, EnsembleNetwork
from sb3_ext.nets.heads import CriticHead, ScalarHead
from sb3_ext.nets.normalization import batch_norm_layers
from sb3_ext.nets.walk import set_mode


class EnsembleCritic(NamesSubstitutes, ContinuousCritic):
    """
    SB3's ``ContinuousCritic`` with its networks stacked: one features extractor, N critics evaluated together.

    ``critic(obs, actions)`` still returns a tuple of N tensors of shape (B, 1). It has no ``q_networks``:
    ``ensemble`` holds the weights, :class:`~sb3_ext.nets.ensemble.EnsembleMLP` says how to read and change them.

    :param n_critics: N
    :param layer_norm: normalize the hidden layers; without a ``body``, as ``dropout``
    :param dropout: dropout probability of the hidden layers
    :param head: meaning of the outputs; by default each is a value
    :param body: builds normalized networks; by default they are SB3's

    The other parameters are those of ``ContinuousCritic``.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        net_arch: list[int],
        features_extractor: BaseFeaturesExtractor,
        features_dim: int,
        activation_fn: type[nn.Module] = nn.ReLU,
        normalize_images: bool = True,
        n_critics: int = 10,
        share_features_extractor: bool = True,
        layer_norm: bool = False,
        dropout: float = 0.0,
        head: CriticHead | None = None,
        body: NormalizedBody | None = None,
    ) -> None:
        super().__init__(
            observation_space,
            action_space,
            net_arch,
            features_extractor,
            features_dim,
            activation_fn,
            normalize_images,
            n_critics=0,  # the ensemble replaces the parent's separate networks
            share_features_extractor=share_features_extractor,
        )
        del self.q_networks  # empty, so loops over it would do nothing
        self.head = ScalarHead() if head is None else head
        n_inputs = features_dim + spaces.utils.flatdim(action_space)
        if body is None:
            self.ensemble: EnsembleNetwork = EnsembleMLP(
                n_critics, n_inputs, net_arch, activation_fn, layer_norm, dropout, self.head.n_outputs
            )
        else:
            self.ensemble = body.build(n_critics, n_inputs, net_arch, activation_fn, self.head.n_outputs)

        self.weight_projection = body is not None and body.weight_projection
        self.find_batch_norm_layers()

    def set_training_mode(self, mode: bool) -> None:
        set_mode(self, mode)

    def find_batch_norm_layers(self) -> None:
        """Find the layers with batch statistics, again after one was replaced: the walk is too slow for each use."""
        self.batch_norm_layers = batch_norm_layers(self.ensemble)

    @property
    def uses_batch_statistics(self) -> bool:
        """Whether a pass for training needs :meth:`joint_outputs`."""
        return bool(self.batch_norm_layers)

    @property
    def n_critics(self) -> int:
        """N. It cannot be changed: a new policy is needed, with ``policy_kwargs=dict(n_critics=...)``."""
        return self.ensemble.n_members

    @n_critics.setter
    def n_critics(self, n_critics: int) -> None:
        # SB3's constructor sets it before the ensemble exists
        if "ensemble" in self._modules and n_critics != self.n_critics:
            raise AttributeError(
                f"n_critics={n_critics!r} cannot replace {self.n_critics}: the networks are built once, so give "
                "policy_kwargs=dict(n_critics=...) to a new model"
            )

    def substitute_for(self, name: str) -> str | None:
        if name != "q_networks" and re.fullmatch(r"qf\d+", name) is None:
            return None
        return (
            "all critics are stacked in `ensemble`. ensemble.member(i) returns a copy of critic i as an nn.Sequential, "
            "ensemble.set_member(i, network) writes one back, and ensemble.requires_grad_(False) freezes all of them"
        )

    def outputs(
        self, obs: PyTorchObs, actions: th.Tensor, members: th.Tensor | None = None, frozen: bool = False
    ) -> th.Tensor:
        """
        Return the last layers' outputs of several critics, for the head to interpret.

        :param obs: observations of B states
        :param actions: one action for each state, shape (B, A), or K of them, shape (K, B, A)
        :param members: indices of the M critics to evaluate; all N if ``None``
        :param frozen: whether gradients reach only the actions and not the critics, as the actor's update needs
        :return: shape (M, B, n_outputs) or (M, K, B, n_outputs)
        """
        # A shared extractor learns only from the policy's loss, as in SB3
        with th.no_grad() if self.share_features_extractor or frozen else nullcontext():
            features = self.extract_features(obs, self.features_extractor)
        inputs = th.cat([features.expand(*actions.shape[:-1], -1), actions], dim=-1)
        outputs = self.ensemble(inputs.flatten(end_dim=-2), members, frozen)
        return outputs.unflatten(1, actions.shape[:-1])

    def joint_outputs(
        self,
        obs: PyTorchObs,
        actions: th.Tensor,
        next_obs: PyTorchObs,
        next_actions: th.Tensor,
        statistics: list[th.Tensor],
        members: th.Tensor | None = None,
        full_gradient: bool = False,
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        Evaluate transitions and their next states in one pass, whose rows batch normalization normalizes together.

        That is CrossQ's (https://arxiv.org/abs/1902.05605), which gives the next values, too.

        :param statistics: gets the statistics of batch normalization, see
            :meth:`~sb3_ext.nets.ensemble.EnsembleNetwork.by_batch`
        :param members: indices of the M critics to evaluate; all N if ``None``
        :param full_gradient: whether gradients flow through the next rows' part in the statistics, too, as in CrossQ.
            Without them the pass has less to compute
        :return: outputs of shape (M, B, n_outputs), and those of the next rows, detached
        """
        pairs = [(obs, actions), (next_obs, next_actions)]
        with th.no_grad() if self.share_features_extractor else nullcontext():
            rows = [th.cat([self.extract_features(o, self.features_extractor), a], dim=-1) for o, a in pairs]
        if full_gradient:
            outputs = self.ensemble.by_batch([th.cat(rows)], statistics, members)[0]
            first, second = outputs.split(len(actions), dim=1)
            return first, second.detach()
        first, second = self.ensemble.by_batch([rows[0], rows[1].detach()], statistics, members)
        return first, second

    def stacked(
        self, obs: PyTorchObs, actions: th.Tensor, members: th.Tensor | None = None, frozen: bool = False
    ) -> th.Tensor:
        """Return the values of several critics, shape (M, B) or (M, K, B), from the arguments of :meth:`outputs`."""
        return self.head.values(self.outputs(obs, actions, members, frozen))

    def forward(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        # Copied, because PyTorch allows no change in place of one of several views, such as `q1 -= bonus`
        return tuple(values.clone() for values in self.stacked(obs, actions).unsqueeze(-1))

    def q1_forward(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """Return the first critic's value, shape (B, 1), as SB3 without a gradient to the features extractor."""
        with th.no_grad():
            features = self.extract_features(obs, self.features_extractor)
        first = th.zeros(1, dtype=th.long, device=actions.device)
        return self.head.values(self.ensemble(th.cat([features, actions], dim=1), members=first)).T
