"""A replay buffer that keeps a copy of its data on the device of the networks."""

import warnings
from typing import Any

import numpy as np
import psutil
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.buffers.float32 import check_buffer
from sb3_ext.checks import check_choice
from sb3_ext.keywords import among, checks_keywords

# What the copy is made of
_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
# Largest share of the device's free memory. Networks and their activations need the rest
_LARGEST_SHARE = 0.5

# No position of a buffer
_NOWHERE = (-1, False)


class DeviceReplayBuffer(ReplayBuffer):
    """
    SB3's ``ReplayBuffer`` with a copy of its data on the model's device.

    Minibatches are gathered on the device, so only indices and new transitions are transferred.

    For the same random state, samples are those of SB3's buffer, but with float64 observations as float32. Files do not
    contain the copy.

    From the first sample on, the arrays are read-only, because values written there would not reach the copy. To change
    them, assign another array, such as ``buffer.rewards = 2 * buffer.rewards``.

    Samples come from the host, as in SB3, with ``VecNormalize`` or if the copy needs over half of the device's free
    memory.

    :param buffer_size: number of transitions, counted over all environments
    :param observation_space: any space except ``Dict``
    :param device: device of the copy and of the samples
    :param optimize_memory_usage: must be False; SB3's algorithms pass it
    :param handle_timeout_termination: do not count a time limit as a termination
    :raises ValueError: for ``optimize_memory_usage`` or a ``Dict`` space
    """

    # Where the last addition left `pos` and `full`
    _position: tuple[int, bool] = _NOWHERE

    @checks_keywords(among(ReplayBuffer))
    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ) -> None:
        check_choice("optimize_memory_usage", optimize_memory_usage, (True, False))
        if optimize_memory_usage:
            raise ValueError("optimize_memory_usage=True is not allowed with DeviceReplayBuffer, only False")
        check_buffer(
            type(self), buffer_size, observation_space, action_space, device, n_envs, handle_timeout_termination
        )
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            handle_timeout_termination=handle_timeout_termination,
        )
        self._discard_copy()
        self._count_added(0)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _ARRAYS or name == "device":
            self._discard_copy()

    def _discard_copy(self) -> None:
        # `None` before it is made, empty if it does not fit
        self._copy: dict[str, th.Tensor] | None = None
        self._n_copied = 0
        self._set_writeable(True)

    def _count_added(self, n_added: int) -> None:
        self._n_added = n_added
        self._position = (self.pos, self.full)

    def _notice_moved(self) -> None:
        """Count all transitions as new if ``pos`` or ``full`` was set from outside, as after filling the arrays."""
        if self._position != (self.pos, self.full):
            self._n_copied = 0
            self._count_added(self.size())

    def _set_writeable(self, is_writeable: bool) -> None:
        for name in _ARRAYS:
            if name in self.__dict__:  # not yet, while SB3's constructor makes them
                self.__dict__[name].flags.writeable = is_writeable

    def __getstate__(self) -> dict[str, Any]:
        # Loaded arrays are as writeable as the saved ones. What is written until the next sample has to be noticed
        self._set_writeable(True)
        self._position = _NOWHERE
        return {**self.__dict__, "_copy": None, "_n_copied": 0}

    def add(self, *args: Any, **kwargs: Any) -> None:
        self._notice_moved()
        if self._copy:
            self._set_writeable(True)
        super().add(*args, **kwargs)
        if self._copy:
            self._set_writeable(False)
        self._count_added(self._n_added + 1)

    def reset(self) -> None:
        super().reset()
        self._discard_copy()
        self._count_added(0)

    def _rows(self, name: str, slots: slice) -> th.Tensor:
        """Return a field's values as in samples, shape (slots, n_envs, ...)."""
        rows = getattr(self, name)[slots]
        if name == "dones":
            rows = rows * (1 - self.timeouts[slots])
        tensor = th.as_tensor(rows)
        return tensor.float() if tensor.dtype == th.float64 else tensor

    def _free_memory(self) -> float:
        """Return the free bytes on the device."""
        return th.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else psutil.virtual_memory().available

    def _make_copy(self) -> dict[str, th.Tensor]:
        names = ReplayBufferSamples._fields[:5]
        first = {name: self._rows(name, slice(0, 1)) for name in names}
        needed = sum(tensor.nbytes for tensor in first.values()) * self.buffer_size
        allowed = _LARGEST_SHARE * self._free_memory()
        if needed > allowed:
            return self._stay_on_the_host(
                f"{needed / 1e9:.3g} GB are more than the {allowed / 1e9:.3g} GB that it may take on {self.device}"
            )
        try:
            return {
                name: th.empty((self.buffer_size, *tensor.shape[1:]), dtype=tensor.dtype, device=self.device)
                for name, tensor in first.items()
            }
        except th.OutOfMemoryError as error:  # free memory is fragmented, or another process has taken it
            return self._stay_on_the_host(str(error))

    def _stay_on_the_host(self, reason: str) -> dict[str, th.Tensor]:
        warnings.warn(f"the replay buffer stays on the host: {reason}", stacklevel=2)
        return {}

    def _bring_up_to_date(self) -> dict[str, th.Tensor]:
        """Add new transitions to the copy, and return it; it is empty if it does not fit."""
        self._notice_moved()
        self._set_writeable(True)  # torch warns about arrays that are not
        if self._copy is None:
            self._copy = self._make_copy()
        n_new = min(self._n_added - self._n_copied, self.buffer_size)
        first = (self.pos - n_new) % self.buffer_size
        end = first + n_new
        for slots in (slice(first, min(end, self.buffer_size)), slice(0, max(end - self.buffer_size, 0))):
            for name, tensor in self._copy.items():
                tensor[slots].copy_(self._rows(name, slots), non_blocking=True)
        self._n_copied = self._n_added
        self._set_writeable(not self._copy)
        return self._copy

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        copy = self._bring_up_to_date() if env is None else {}
        if not copy:
            return super()._get_samples(batch_inds, env)
        # These are the random numbers of the parent, and its order of environments
        envs = np.random.randint(0, high=self.n_envs, size=len(batch_inds))
        slots = np.asarray(batch_inds)
        slots = np.where(slots < 0, slots + self.buffer_size, slots)  # as in numpy, by which the parent selects
        rows = th.as_tensor(slots * self.n_envs + envs, device=self.device)
        fields = {name: tensor.flatten(end_dim=1).index_select(0, rows) for name, tensor in copy.items()}
        for name in ("dones", "rewards"):
            fields[name] = fields[name].unsqueeze(1)
        return ReplayBufferSamples(**fields)
