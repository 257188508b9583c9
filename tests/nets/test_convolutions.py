"""The convolutional networks against SB3's, of which they are a faster form."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import NatureCNN

from sb3_ext.nets import ChannelsLastCNN, NatureConvolutions

IMAGES = spaces.Box(0, 255, (4, 84, 84), np.uint8)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_channels_last_changes_rounding_only(batch_size: int) -> None:
    th.manual_seed(0)
    reference = NatureCNN(IMAGES, 512)
    faster = ChannelsLastCNN(IMAGES, 512)
    faster.load_state_dict(reference.state_dict())
    images = th.rand(batch_size, *IMAGES.shape)
    output_gradient = th.randn(batch_size, 512)
    for network in (reference, faster):
        network(images).backward(output_gradient)
    th.testing.assert_close(faster(images), reference(images), rtol=1e-5, atol=1e-6)
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    for name, parameter in faster.named_parameters():
        th.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert parameter.is_contiguous()  # a fused optimiser relies on it


@pytest.mark.parametrize("network_class", [ChannelsLastCNN, NatureConvolutions])
def test_every_convolution_gets_its_channels_last(network_class: type[NatureCNN]) -> None:
    network = network_class(IMAGES)
    seen: list[bool] = []
    for module in network.cnn:
        if isinstance(module, th.nn.Conv2d):
            module.register_forward_hook(
                lambda _, inputs, output: seen.extend(
                    tensor.is_contiguous(memory_format=th.channels_last) for tensor in (*inputs, output)
                )
            )
    network(th.rand(3, *IMAGES.shape))
    assert seen == [True] * 6


def test_convolutions_alone_are_those_of_the_whole_network() -> None:
    whole = ChannelsLastCNN(IMAGES, 512)
    convolutions = NatureConvolutions(IMAGES)
    assert convolutions.features_dim == 64 * 7 * 7
    convolutions.cnn.load_state_dict(whole.cnn.state_dict())
    images = th.rand(3, *IMAGES.shape)
    assert th.equal(whole.linear(convolutions(images)), whole(images))

    with_layer = NatureConvolutions(IMAGES, features_dim=100)
    assert with_layer.features_dim == 100
    assert with_layer(images).shape == (3, 100)


@pytest.mark.parametrize("features_dim", [None, 9])
def test_normalized_layers(features_dim: int | None) -> None:
    th.manual_seed(0)
    network, x = NatureConvolutions(IMAGES, features_dim, normalization="layer"), th.rand(2, *IMAGES.shape)
    h = x
    for convolution in (m for m in network.modules() if isinstance(m, th.nn.Conv2d)):
        h = convolution(h)
        # Over all channels and pixels of an image
        deviation = h.var(dim=(1, 2, 3), keepdim=True, unbiased=False).add(1e-5).sqrt()
        h = ((h - h.mean(dim=(1, 2, 3), keepdim=True)) / deviation).relu()
    h = h.flatten(1)
    for linear in (m for m in network.modules() if isinstance(m, th.nn.Linear)):
        h = linear(h)
        deviation = h.var(dim=1, keepdim=True, unbiased=False).add(1e-5).sqrt()
        h = ((h - h.mean(dim=1, keepdim=True)) / deviation).relu()
    th.testing.assert_close(network(x), h, rtol=1e-4, atol=1e-5)
    assert network.features_dim == h.shape[1]


def test_another_normalization_is_refused() -> None:
    with pytest.raises(ValueError, match="normalization='batch' is not one of None, 'layer'"):
        NatureConvolutions(IMAGES, normalization="batch")
