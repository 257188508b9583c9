"""
The residual convolutional network of IMPALA, as Beyond the Rainbow has it.

Espeholt et al. 2018, https://arxiv.org/abs/1802.01561; Clark et al. 2024 (BTR), https://arxiv.org/abs/2411.03820.
"""

from typing import get_args

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn
from torch.nn import functional as F

from sb3_ext.checks import check_choice, check_integer
from sb3_ext.nets.convolutions import ConvolutionNormalization, normalized

_CHANNELS = (16, 32, 32)


class SpectralConv2d(nn.Conv2d):
    """
    A convolution whose weights are divided by their largest singular value, with SB3's way to copy statistics.

    Miyato et al. 2018, https://arxiv.org/abs/1802.05957. One step of the power iteration follows each pass that
    training differentiates. Torch's own version keeps its vectors where SB3 does not copy them to a target network.
    """

    running_u: th.Tensor

    def __init__(self, n_inputs: int, n_outputs: int, kernel_size: int, padding: int) -> None:
        super().__init__(n_inputs, n_outputs, kernel_size, padding=padding)
        self.register_buffer("running_u", th.empty(n_outputs))
        with th.no_grad():
            self.running_u.copy_(th.linalg.svd(self.weight.flatten(1), full_matrices=False).U[:, 0])

    def forward(self, x: th.Tensor) -> th.Tensor:
        with th.autocast(x.device.type, enabled=False):
            norm = self._largest_singular_value()
        return self._conv_forward(x, self.weight / norm, self.bias)

    def _largest_singular_value(self) -> th.Tensor:
        matrix = self.weight.flatten(1)
        with th.no_grad():
            v = F.normalize(matrix.T @ self.running_u, dim=0)
            u = F.normalize(matrix @ v, dim=0)
        if self.training and th.is_grad_enabled():
            self.running_u.copy_(u)
        return u @ matrix @ v


class _Residual(nn.Module):
    def __init__(self, n_channels: int, spectral_norm: bool, normalization: ConvolutionNormalization | None) -> None:
        super().__init__()
        convolution = SpectralConv2d if spectral_norm else nn.Conv2d
        layers = nn.Sequential(
            nn.ReLU(),
            convolution(n_channels, n_channels, 3, padding=1),
            nn.ReLU(),
            convolution(n_channels, n_channels, 3, padding=1),
        )
        self.layers = layers if normalization is None else normalized(layers)

    def forward(self, x: th.Tensor) -> th.Tensor:
        return x + self.layers(x)


class _AdaptiveMaxPool(nn.AdaptiveMaxPool2d):
    """
    Torch's adaptive pooling, which exporters refuse where the windows differ in size. They get the same by indices.

    :param size: height and width of the inputs
    """

    def __init__(self, pool_size: int, size: tuple[int, int]) -> None:
        super().__init__(pool_size)
        self.windows = [_windows(length, pool_size) for length in size]

    def forward(self, x: th.Tensor) -> th.Tensor:
        if not (th.onnx.is_in_onnx_export() or th.compiler.is_exporting() or th.jit.is_tracing()):  # type: ignore[attr-defined]
            return super().forward(x)
        for axis, windows in zip((-2, -1), self.windows, strict=True):
            columns = [x.index_select(axis, th.tensor(column)) for column in zip(*windows, strict=True)]
            x = th.stack(columns).amax(dim=0)
        return x


def _windows(length: int, n_windows: int) -> list[list[int]]:
    """List the indices in each window of torch's adaptive pooling, the last one again where a window is shorter."""
    windows = [range(length * i // n_windows, -(-length * (i + 1) // n_windows)) for i in range(n_windows)]
    longest = max(map(len, windows))
    return [[*window, *[window[-1]] * (longest - len(window))] for window in windows]


class ImpalaConvolutions(BaseFeaturesExtractor):
    """
    Three blocks of a convolution, a pooling by two and two residual pairs, then an adaptive pooling by maxima.

    It costs several times as much as ``NatureCNN``, so it is for GPUs. What follows, such as a layer of 512 units, is
    ``net_arch``.

    :param observation_space: space of images, channels first
    :param features_dim: if given, the last layer is fully connected, with this many units
    :param width: w; the blocks have 16 w, 32 w and 32 w channels. 2 in BTR
    :param pool_size: height and width after the last pooling; 6 in BTR
    :param spectral_norm: whether the residual convolutions have spectral normalization, as in BTR
    :param normalized_image: whether the images are already in [0, 1]
    :param normalization: ``"layer"`` normalizes what each convolution returns over all of its channels and pixels, and
        the fully connected layer, with or without spectral normalization of the weights; ``None``: neither
    :raises ValueError: if the images are too small for ``pool_size``, or an argument is outside its range
    """

    def __init__(
        self,
        observation_space: spaces.Box,
        features_dim: int | None = None,
        width: int = 2,
        pool_size: int = 6,
        spectral_norm: bool = True,
        normalized_image: bool = False,
        normalization: ConvolutionNormalization | None = None,
    ) -> None:
        if features_dim is not None:
            check_integer("features_dim", features_dim, minimum=1)
        check_integer("width", width, minimum=1)
        check_integer("pool_size", pool_size, minimum=1)
        check_choice("spectral_norm", spectral_norm, (True, False))
        check_choice("normalization", normalization, (None, *get_args(ConvolutionNormalization)))
        if not is_image_space(observation_space, normalized_image=normalized_image):
            raise ValueError(f"observation_space={observation_space} is no image, channels first: use MlpPolicy")
        widths = [width * channels for channels in _CHANNELS]
        n_channels, *size = observation_space.shape
        for _ in widths:
            size = [(length + 1) // 2 for length in size]
        if min(size) < pool_size:
            smallest = 8 * (pool_size - 1) + 1
            raise ValueError(
                f"observation_space={observation_space} has images that are too small: with pool_size={pool_size} "
                f"their height and width must be at least {smallest}"
            )
        n_flat = widths[-1] * pool_size**2
        super().__init__(observation_space, n_flat if features_dim is None else features_dim)
        layers: list[nn.Module] = []
        for n_inputs, n_outputs in zip([n_channels, *widths], widths, strict=False):
            layers += [nn.Conv2d(n_inputs, n_outputs, 3, padding=1), nn.MaxPool2d(3, stride=2, padding=1)]
            layers += [_Residual(n_outputs, spectral_norm, normalization) for _ in range(2)]
        last = [] if features_dim is None else [nn.Linear(n_flat, features_dim), nn.ReLU()]
        pooling = _AdaptiveMaxPool(pool_size, (size[0], size[1]))
        network = nn.Sequential(*layers, nn.ReLU(), pooling, nn.Flatten(), *last)
        self.cnn = network if normalization is None else normalized(network)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.cnn(observations.contiguous(memory_format=th.channels_last))
