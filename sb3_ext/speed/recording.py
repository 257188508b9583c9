"""
Recordings of work for a GPU: repeating one launches hundreds of small kernels at once.

A recording repeats kernels at the same addresses, and runs no Python code. So the work must fulfil three conditions:

- it reads its inputs from tensors that stay where they are
- it reads no value back to the host
- it changes parameters and optimizers in place

https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import warnings
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import torch as th

from sb3_ext.functional.fields import map_fields, tensors_of

Inputs = TypeVar("Inputs", bound=tuple[Any, ...])
Outputs = TypeVar("Outputs", bound=tuple[Any, ...])

# Number of normal runs before the recording. Optimizers create their state then, and libraries choose kernels
_N_WARM_UPS = 3
# Each recording holds the memory of its intermediate values, so there are only a few
_MAX_RECORDINGS = 8


class Recorder(Protocol):
    """Records work and repeats it: CUDA, or a test's imitation of CUDA."""

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work once without recording it, where a recording can follow."""

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record the work without doing it, and return a function that does it."""


class CudaRecorder:
    """Records CUDA graphs. They share their memory, because only one of them runs at a time."""

    def __init__(self, device: th.device) -> None:
        self._device = device
        self._pool: Any = None

    def warm_up(self, work: Callable[[], None]) -> None:
        """Do the work once on a separate stream, as PyTorch requires."""
        with th.cuda.device(self._device):
            stream = th.cuda.Stream()
            stream.wait_stream(th.cuda.current_stream())
            with th.cuda.stream(stream):
                work()
            th.cuda.current_stream().wait_stream(stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """
        Record the work without doing it, and return a function that does it.

        :raises RuntimeError: if the work cannot be recorded
        """
        with th.cuda.device(self._device):
            graph, stream = th.cuda.CUDAGraph(), th.cuda.current_stream()
            try:
                # With this mode other threads may use the GPU meanwhile
                with th.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    work()
            except BaseException:
                th.cuda.set_stream(stream)  # `th.cuda.graph` does not restore it if a recording fails at its end
                raise
        self._pool = graph.pool()
        return graph.replay


class _Recording:
    """Work with the tensors that it reads from and writes to."""

    def __init__(self, work: Callable[[Any], Any], inputs: Any) -> None:
        self._work = work
        self._inputs = map_fields(th.clone, inputs)
        self._outputs: Any = None
        self.n_warm_ups = 0
        self.replay: Callable[[], None] | None = None
        self.addresses: Hashable = None

    def set_inputs(self, inputs: Any) -> None:
        """Copy inputs of the same shapes and types into the tensors that the recording reads."""
        th._foreach_copy_(tensors_of(self._inputs), tensors_of(inputs))

    def do(self) -> None:
        """Do the work that is recorded."""
        outputs = self._work(self._inputs)
        if self._outputs is None:
            self._outputs = map_fields(th.clone, outputs)
        else:
            th._foreach_copy_(tensors_of(self._outputs), tensors_of(outputs))

    def outputs(self) -> Any:
        """Copy the outputs of the last run."""
        return map_fields(th.clone, self._outputs)


class GraphedWork:
    """
    Does work by recordings where possible, and without them elsewhere.

    Recordings belong to the networks and optimizers whose tensors they change, so a copy starts without any.
    """

    def __init__(self, make_recorder: Callable[[], Recorder]) -> None:
        self._make_recorder = make_recorder
        self._failed = False
        self.forget()

    def __deepcopy__(self, memo: dict[int, Any]) -> "GraphedWork":
        return GraphedWork(self._make_recorder)

    def forget(self) -> None:
        """Discard all recordings and their memory."""
        self._recordings: dict[Hashable, _Recording] = {}
        self._recorder = self._make_recorder()

    def run(self, key: Hashable, addresses: Hashable, work: Callable[[Inputs], Outputs], inputs: Inputs) -> Outputs:
        """
        Do the work, and return what ``work`` returns.

        :param key: identifies the kernels: everything that decides which ones run, except inputs and what changes in
            place
        :param addresses: addresses of everything that changes in place. Other addresses than a recording's mean new
            parameters or optimizers, so all recordings are discarded
        :param work: a function from inputs to outputs, both named tuples of tensors and dictionaries of tensors
        :param inputs: the inputs of this run
        """
        if any(recording.replay and recording.addresses != addresses for recording in self._recordings.values()):
            self.forget()
        key = (key, tuple((tensor.shape, tensor.dtype) for tensor in tensors_of(inputs)))
        if key not in self._recordings:
            if self._failed or len(self._recordings) >= _MAX_RECORDINGS:
                return work(inputs)
            self._recordings[key] = _Recording(work, inputs)
        recording = self._recordings[key]
        recording.set_inputs(inputs)
        if recording.replay is None and recording.n_warm_ups < _N_WARM_UPS:
            recording.n_warm_ups += 1
            self._recorder.warm_up(recording.do)
            return recording.outputs()
        if recording.replay is None:
            try:
                recording.replay = self._recorder.record(recording.do)
            except RuntimeError as error:  # nothing has been done yet
                self._failed = True
                self.forget()
                warnings.warn(f"training goes on without CUDA graphs, which failed: {error}", stacklevel=2)
                return work(inputs)
            recording.addresses = addresses
        recording.replay()
        return recording.outputs()
