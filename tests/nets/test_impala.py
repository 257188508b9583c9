"""The residual convolutional network, and its spectral normalization."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.envs import FakeImageEnv
from torch import nn

from sb3_ext import IQN
from sb3_ext.nets import ImpalaConvolutions
from sb3_ext.nets.impala import SpectralConv2d
from tests.support.models import make


def images(height: int, width: int, channels: int = 4) -> spaces.Box:
    return spaces.Box(0, 255, (channels, height, width), np.uint8)


@pytest.mark.parametrize("spectral_norm", [True, False])
@pytest.mark.parametrize(("width", "pool_size", "size"), [(1, 6, (41, 60)), (2, 4, (84, 84)), (2, 6, (84, 84))])
def test_shapes(width: int, pool_size: int, size: tuple[int, int], spectral_norm: bool) -> None:
    network = ImpalaConvolutions(images(*size), None, width, pool_size, spectral_norm)
    assert network.features_dim == 32 * width * pool_size**2
    assert network(th.rand(3, 4, *size)).shape == (3, network.features_dim)
    channels = [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert channels == [16 * width] * 5 + [32 * width] * 10
    normalized = [m for m in network.modules() if isinstance(m, SpectralConv2d)]
    assert len(normalized) == (12 if spectral_norm else 0)  # not the first convolution of a block


def test_outputs_layer_by_layer() -> None:
    th.manual_seed(0)
    network, x = ImpalaConvolutions(images(48, 48), None, 1, 3, spectral_norm=False), th.rand(2, 4, 48, 48)
    convolutions = iter([m for m in network.modules() if isinstance(m, nn.Conv2d)])
    h = x
    for _ in range(3):
        h = nn.functional.max_pool2d(next(convolutions)(h), 3, 2, 1)
        for _ in range(2):
            first, second = next(convolutions), next(convolutions)
            h = h + second(first(h.relu()).relu())
    expected = nn.functional.adaptive_max_pool2d(h.relu(), 3).flatten(1)
    th.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("spectral_norm", [True, False])
def test_normalized_outputs_layer_by_layer(spectral_norm: bool) -> None:
    """With or without spectral normalization of the weights, which is checked below."""
    th.manual_seed(0)
    network = ImpalaConvolutions(images(48, 48), 7, 1, 3, spectral_norm, normalization="layer").eval()
    x = th.rand(2, 4, 48, 48)
    convolutions = iter([m for m in network.modules() if isinstance(m, nn.Conv2d)])

    def layer(h: th.Tensor) -> th.Tensor:
        h = next(convolutions)(h)
        deviation = h.var(dim=(1, 2, 3), keepdim=True, unbiased=False).add(1e-5).sqrt()
        return (h - h.mean(dim=(1, 2, 3), keepdim=True)) / deviation

    h = x
    for _ in range(3):
        h = nn.functional.max_pool2d(layer(h), 3, 2, 1)
        for _ in range(2):
            h = h + layer(layer(h.relu()).relu())
    (linear,) = [m for m in network.modules() if isinstance(m, nn.Linear)]
    h = linear(nn.functional.adaptive_max_pool2d(h.relu(), 3).flatten(1))
    h = (h - h.mean(dim=1, keepdim=True)) / h.var(dim=1, keepdim=True, unbiased=False).add(1e-5).sqrt()
    th.testing.assert_close(network(x), h.relu(), rtol=1e-4, atol=1e-4)
    n_spectral = sum(isinstance(m, SpectralConv2d) for m in network.modules())
    assert n_spectral == (12 if spectral_norm else 0)


def test_the_largest_singular_value_is_1() -> None:
    th.manual_seed(0)
    layer, x = SpectralConv2d(5, 7, 3, padding=1), th.randn(2, 5, 6, 6)
    layer.weight.data = th.randn_like(layer.weight)
    for _ in range(200):  # the vector follows while training
        layer(x)
    scaled = layer.weight / th.linalg.matrix_norm(layer.weight.flatten(1), 2)
    th.testing.assert_close(layer(x), nn.functional.conv2d(x, scaled, layer.bias, padding=1), rtol=1e-3, atol=1e-4)
    # The gradient is that through the norm
    gradients = []
    for weight in (layer.weight / th.linalg.matrix_norm(layer.weight.flatten(1), 2), None):
        output = layer(x) if weight is None else nn.functional.conv2d(x, weight, layer.bias, padding=1)
        gradients.append(th.autograd.grad(output.square().sum(), layer.weight)[0])
    th.testing.assert_close(gradients[1], gradients[0], rtol=1e-2, atol=1e-2)


def test_the_norm_is_that_of_float32_under_autocast() -> None:
    layer, x = SpectralConv2d(5, 7, 3, padding=1), th.randn(2, 5, 6, 6)
    expected = layer._largest_singular_value()
    with th.autocast("cpu", th.bfloat16):
        layer(x)
        layer.eval()(x)
    assert layer.running_u.norm().item() == pytest.approx(1.0, abs=1e-5)
    th.testing.assert_close(layer._largest_singular_value(), expected, rtol=1e-4, atol=0)


def test_it_may_end_with_a_fully_connected_layer() -> None:
    network = ImpalaConvolutions(images(48, 48), 7, 1, 3)
    assert network.features_dim == 7 and network(th.rand(2, 4, 48, 48)).shape == (2, 7)


@pytest.mark.parametrize("size", [41, 60, 84])
def test_pooling_by_indices_is_torchs(size: int) -> None:
    network, x = (
        ImpalaConvolutions(images(size, size), None, 1, 6, spectral_norm=False).eval(),
        th.rand(2, 4, size, size),
    )
    with th.no_grad():
        traced = th.jit.trace(network, x)  # with the indices, as in exports
        assert th.equal(traced(x), network(x))


def test_the_vector_moves_only_with_a_gradient_in_training_mode() -> None:
    layer, x = SpectralConv2d(5, 7, 3, padding=1), th.randn(2, 5, 6, 6)
    layer.weight.data = th.randn_like(layer.weight)
    before = layer.running_u.clone()
    layer.eval()(x)
    with th.no_grad():
        layer.train()(x)
    assert th.equal(layer.running_u, before)
    layer(x)
    assert not th.equal(layer.running_u, before)


def test_a_target_network_gets_the_vectors_with_the_weights() -> None:
    kwargs = dict(features_extractor_class=ImpalaConvolutions, features_extractor_kwargs=dict(width=1, pool_size=2))
    env = FakeImageEnv(screen_height=40, screen_width=40, n_channels=2, discrete=True, channel_first=True)
    model = make(IQN, env, "CnnPolicy", kwargs | dict(net_arch=[8]), target_update_interval=1)
    model.learn(30)
    online, target = model.q_net.state_dict(), model.q_net_target.state_dict()
    names = [name for name in online if "running_u" in name]
    assert len(names) == 12
    model._on_step()  # moves the target network
    assert all(th.equal(online[name], target[name]) for name in names)


@pytest.mark.parametrize(
    ("space", "kwargs", "message"),
    [
        (images(40, 84), {}, "too small: with pool_size=6 their height and width must be at least 41"),
        (images(84, 84), dict(features_dim=0), "features_dim=0 must be an integer of at least 1"),
        (images(84, 84), dict(width=0), "width=0 must be an integer of at least 1"),
        (images(84, 84), dict(pool_size=0), "pool_size=0 must be an integer of at least 1"),
        (images(84, 84), dict(spectral_norm=1.5), "spectral_norm=1.5 is not one of True, False"),
        (images(84, 84), dict(normalization="batch"), "normalization='batch' is not one of None, 'layer'"),
        (spaces.Box(0, 1, (3,), np.float32), {}, "is no image"),
    ],
)
def test_what_is_refused(space: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImpalaConvolutions(space, **kwargs)
