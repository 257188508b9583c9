"""Networks and policies leave Python: ONNX by both exporters, TorchScript and torch.export."""

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from torch import nn

from sb3_ext import IQN, REDQSAC, DoubleDQN, SoftDQN
from tests.support.environments import Blank
from tests.support.masked import A, Pile, mask_of, masked_policy
from tests.support.models import CLASSES, each_value_based, make

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

VECTORS = spaces.Box(-1, 1, (4,), np.float32)
IMAGES = spaces.Box(0, 255, (2, 36, 36), np.uint8)
MIXED = spaces.Dict({"joints": VECTORS, "room": spaces.Discrete(3)})
POLICIES: dict[str, spaces.Space] = {"MlpPolicy": VECTORS, "CnnPolicy": IMAGES, "MultiInputPolicy": MIXED}
N_EXAMPLES, B = 2, 7

# Models, and which of their networks to export
REGULARIZED = dict(policy_kwargs=dict(layer_norm=True, dropout=0.1))
DUELING = dict(policy_kwargs=dict(dueling=True))
CASES: list[tuple[Any, dict[str, Any], tuple[str, ...]]] = [
    (REDQSAC, {}, ("actor", "critic")),
    (REDQSAC, REGULARIZED, ("critic_target", "policy")),
    (REDQSAC, dict(use_sde=True), ("actor",)),
    (DoubleDQN, {}, ("q_net", "policy")),
    (DoubleDQN, DUELING, ("q_net",)),
    (
        DoubleDQN,
        dict(policy_kwargs=dict(head="categorical", head_kwargs=dict(bound=10), noisy="with_epsilon")),
        ("q_net",),
    ),
    (IQN, dict(policy_kwargs=dict(normalization="layer"), munchausen_coef=0.9), ("policy",)),
    (SoftDQN, {}, ("q_net", "policy")),
    (IQN, {}, ("q_net", "policy")),
    (IQN, DUELING | dict(risk_measure="wang", risk_eta=-0.5), ("q_net",)),
    (IQN, dict(risk_measure="cpw", risk_eta=0.7), ("policy",)),
]


class Exported(nn.Module):
    """As in SB3's documentation: a network with the arguments that a file needs."""

    def __init__(self, network: nn.Module, **kwargs: Any) -> None:
        super().__init__()
        self.network, self.kwargs = network, kwargs
        self.eval()

    def forward(self, obs: Any, actions: th.Tensor | None = None) -> Any:
        return self.network(*([obs] if actions is None else [obs, actions]), **self.kwargs)


class Sampled(Exported):
    def forward(self, obs: Any, actions: th.Tensor | None = None) -> Any:
        return self.network._predict(obs, deterministic=False)


def model_of(cls: Any, policy: str = "MlpPolicy", **kwargs: Any) -> Any:
    is_continuous = issubclass(cls, SAC)
    actions = spaces.Box(-2, 2, (3,), np.float32) if is_continuous else spaces.Discrete(5)
    return make(cls, Blank(POLICIES[policy], actions), policy, **kwargs)


def network_of(model: Any, name: str) -> Exported:
    network = model.policy if name == "policy" else getattr(model, name)
    return Exported(network, **(dict(deterministic=True) if name in ("actor", "policy") else {}))


def draw(space: spaces.Space, n: int) -> Any:
    space.seed(n)
    if isinstance(space, spaces.Dict):
        return {key: draw(part, n) for key, part in space.spaces.items()}
    return th.as_tensor(np.stack([space.sample() for _ in range(n)]))


def inputs_of(model: Any, name: str, n: int) -> tuple[Any, ...]:
    obs = draw(model.observation_space, n)
    return (obs, draw(model.action_space, n)) if name.startswith("critic") else (obs,)


def batches(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Which axes of the inputs may have any length: the first ones."""
    batch = {0: th.export.Dim("batch")}
    return tuple(dict.fromkeys(each, batch) if isinstance(each, dict) else batch for each in inputs)


def run_onnx(network: nn.Module, examples: Any, inputs: Any, file: Path, dynamo: bool) -> list[th.Tensor]:
    """Export with the examples, and run the file on the inputs."""
    leaves = [leaf for each in inputs for leaf in (each.values() if isinstance(each, dict) else [each])]
    names = [f"input{index}" for index in range(len(leaves))]
    # torch takes a dictionary at the end for keyword arguments
    args = (*examples, {}) if isinstance(examples[-1], dict) else examples
    if dynamo:
        th.onnx.export(network, args, file, input_names=names, dynamic_shapes=batches(examples), verbose=False)
    else:
        axes = {name: {0: "batch"} for name in names}
        th.onnx.export(network, args, file, input_names=names, dynamic_axes=axes, dynamo=False)
    session = onnxruntime.InferenceSession(file)
    outputs = session.run(None, {name: leaf.numpy() for name, leaf in zip(names, leaves, strict=True)})
    return [th.as_tensor(output) for output in outputs]


def assert_equal(found: Any, expected: Any) -> None:
    found, expected = ([each] if isinstance(each, th.Tensor) else list(each) for each in (found, expected))
    th.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def cases(names_elsewhere: tuple[str, ...]) -> Any:
    """
    :param names_elsewhere: networks that are exported not only for vectors, but also for images and dictionaries
    """
    return pytest.mark.parametrize(
        ("cls", "kwargs", "name", "policy"),
        [
            pytest.param(cls, kwargs, name, policy, id=f"{cls.__name__}-{index}-{name}-{policy}")
            for index, (cls, kwargs, names) in enumerate(CASES)
            for name in names
            for policy in POLICIES
            if policy == "MlpPolicy" or name in names_elsewhere
        ],
    )


@cases(("critic", "q_net"))
def test_older_onnx_exporter_and_trace(cls: Any, kwargs: Any, name: str, policy: str, tmp_path: Path) -> None:
    model = model_of(cls, policy, **kwargs)
    network, examples, inputs = network_of(model, name), inputs_of(model, name, N_EXAMPLES), inputs_of(model, name, B)
    with th.no_grad():
        expected = network(*inputs)
    assert_equal(run_onnx(network, examples, inputs, tmp_path / "it.onnx", dynamo=False), expected)
    file = io.BytesIO()
    th.jit.save(th.jit.freeze(th.jit.trace(network, examples, strict=False)), file)
    file.seek(0)
    assert_equal(th.jit.load(file)(*inputs), expected)


def check_newer_exporter(cls: Any, kwargs: Any, name: str, policy: str, file: Path) -> None:
    model = model_of(cls, policy, **kwargs)
    network, examples, inputs = network_of(model, name), inputs_of(model, name, N_EXAMPLES), inputs_of(model, name, B)
    with th.no_grad():
        expected = network(*inputs)
    assert_equal(run_onnx(network, examples, inputs, file, dynamo=True), expected)


# The first half of the newer exporter, which takes seconds
@cases(())
def test_torch_export(cls: Any, kwargs: Any, name: str, policy: str) -> None:
    model = model_of(cls, policy, **kwargs)
    network, examples, inputs = network_of(model, name), inputs_of(model, name, N_EXAMPLES), inputs_of(model, name, B)
    program = th.export.export(network, examples, dynamic_shapes=batches(examples))
    assert_equal(program.module()(*inputs), network(*inputs))


def test_newer_onnx_exporter(tmp_path: Path) -> None:
    check_newer_exporter(IQN, dict(risk_measure="wang", risk_eta=-0.5), "policy", "MlpPolicy", tmp_path / "it.onnx")


@pytest.mark.slow
@cases(("actor", "critic", "critic_target", "policy", "q_net"))
def test_newer_onnx_exporter_everywhere(cls: Any, kwargs: Any, name: str, policy: str, tmp_path: Path) -> None:
    check_newer_exporter(cls, kwargs, name, policy, tmp_path / "it.onnx")


def test_layers_compile_where_those_of_sb3_do() -> None:
    env = Blank(VECTORS, spaces.Discrete(5))
    pairs = [(DQN("MlpPolicy", env, device="cpu").q_net.q_net, model_of(DoubleDQN).q_net.q_net)]
    stock, ours = SAC("MlpPolicy", "Pendulum-v1", device="cpu").actor, make(REDQSAC).actor
    pairs += [(getattr(stock, name), getattr(ours, name)) for name in ("latent_pi", "mu", "log_std")]
    pairs += [(pairs[0][0], model_of(cls, **DUELING).q_net.q_net) for cls in (DoubleDQN, SoftDQN)]
    quantiles = model_of(IQN, policy_kwargs=dict(net_arch=[6, 8])).q_net
    pairs += [(pairs[0][0], layers) for layers in (quantiles.psi, quantiles.phi, quantiles.f)]
    for theirs, layers in pairs:
        th.jit.script(theirs)
        compiled = th.jit.script(layers)
        n_inputs = next(each for each in layers.modules() if isinstance(each, nn.Linear)).in_features
        inputs = th.rand(B, n_inputs) if not hasattr(layers, "frequencies") else th.rand(B, 3)
        assert th.equal(compiled(inputs), layers(inputs))


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_sampled_actions_in_onnx(dynamo: bool, tmp_path: Path) -> None:
    """Those of SoftDQN have the probabilities of its policy, and REDQSAC's are not the mean."""
    model = model_of(SoftDQN)
    nn.init.constant_(model.q_net.temperature, 0.3)
    states = draw(VECTORS, 1).expand(20_000, -1).contiguous()
    onnxruntime.set_seed(0)
    file = tmp_path / "sampled.onnx"
    (actions,) = run_onnx(Sampled(model.q_net), (states[:N_EXAMPLES],), (states,), file, dynamo)
    frequencies = th.bincount(actions, minlength=5) / len(actions)
    policy = th.softmax(model.q_net(states[:1]) / 0.3, dim=1)[0].detach()
    assert (frequencies - policy).abs().max() < 0.02  # over five standard deviations

    actor = model_of(REDQSAC).actor
    (actions,) = run_onnx(Sampled(actor), (states[:N_EXAMPLES],), (states,), file, dynamo)
    mean, log_std, _ = (each for each in actor.get_action_dist_params(states[:1]))
    pre_tanh = actions.clamp(-0.9999, 0.9999).atanh()
    assert (pre_tanh.median(dim=0).values - mean[0]).abs().max() < 0.05
    quartiles = pre_tanh.quantile(0.75, dim=0) - pre_tanh.quantile(0.25, dim=0)
    th.testing.assert_close(quartiles, 1.349 * log_std[0].detach().exp(), rtol=0.05, atol=0.0)


@each_value_based
def test_masks_leave_python(cls: Any, tmp_path: Path) -> None:
    """No file returns an impossible action, although the examples allow all."""
    model = make(cls, Pile(), masked_policy(cls, "hook"))
    obs = draw(model.observation_space, 300)
    obs[:, -A:] = (obs[:, -A:] < 0.5) | (th.arange(300) % A).unsqueeze(1).eq(th.arange(A))
    examples = (th.ones(N_EXAMPLES, 1 + A),)
    network = Sampled(model.policy)
    program = th.export.export(network, examples, dynamic_shapes=batches(examples))
    traced = th.jit.trace(network, examples, check_trace=False)
    of_onnx = run_onnx(network, examples, (obs,), tmp_path / "it.onnx", dynamo=False)[0]
    for actions in (of_onnx, traced(obs), program.module()(obs)):
        assert mask_of(obs)[th.arange(300), actions].all() and len(actions.unique()) > 1


@pytest.mark.parametrize("cls", CLASSES)
def test_training_goes_on_as_without_an_export(cls: Any, tmp_path: Path) -> None:
    def learn(exports: bool) -> Any:
        model = make(cls)
        model.learn(40)
        if exports:
            network = Exported(model.policy, deterministic=True)
            examples = inputs_of(model, "policy", N_EXAMPLES)
            run_onnx(network, examples, examples, tmp_path / "it.onnx", dynamo=False)
            th.jit.trace(network, examples, strict=False)
            th.export.export(network, examples, dynamic_shapes=batches(examples))
            action, _ = model.predict(examples[0][0].numpy(), deterministic=True)
            assert model.action_space.contains(action)
            copy.deepcopy(model.policy)
        model.learn(20, reset_num_timesteps=False)
        return model

    model, expected = learn(exports=True), learn(exports=False)
    assert model._n_updates == expected._n_updates > 0
    for name, value in expected.policy.state_dict().items():
        assert th.equal(model.policy.state_dict()[name], value), name
    assert model.policy.training == expected.policy.training


def test_levels_follow_their_arguments() -> None:
    """An exported IQN holds the levels of its deterministic actions as numbers."""
    network = model_of(IQN).q_net
    neutral = network.action_taus(B, deterministic=True)
    network.risk_measure, network.risk_eta = "cvar", 0.25
    assert th.equal(network.action_taus(B, deterministic=True), 0.25 * neutral)
    network.n_action_quantile_samples = 9
    assert network.action_taus(B, deterministic=True).shape == (B, 9)
    assert "midpoints" not in network.state_dict()
