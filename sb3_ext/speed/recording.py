"""
Work for a GPU that is recorded once and repeated: hundreds of small kernels then cost one launch.

What a recording repeats are the kernels and their addresses, nothing of Python. So the work must read its inputs from
tensors that stay where they are, may not look at a value on the host, and changes parameters and optimisers in place.
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

import warnings
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import torch as th

from sb3_ext.functional.fields import map_fields, tensors_of

Inputs = TypeVar("Inputs", bound=tuple[Any, ...])
Outputs = TypeVar("Outputs", bound=tuple[Any, ...])

# How often work runs as usual before it is recorded: optimisers make their state then, and libraries choose kernels
_N_WARM_UPS = 3
# Each recording holds the memory of its intermediate values. What comes up rarely is not worth one
_MAX_RECORDINGS = 8


class Recorder(Protocol):
    """
    What records work and repeats it: CUDA, or in a test something that shows what CUDA would do.
    """

    def warm_up(self, work: Callable[[], None]) -> None:
        """
        :param work: done once, as usual, but where recording it afterwards is possible
        """

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """
        :param work: recorded without being done
        :return: does it
        """


class CudaRecorder:
    """
    Records CUDA graphs, which share their memory: one of them is replayed at a time.

    :param device: of the work
    """

    def __init__(self, device: th.device) -> None:
        self._device = device
        self._pool: Any = None

    def warm_up(self, work: Callable[[], None]) -> None:
        """
        :param work: done once, on a stream of its own as PyTorch asks for
        """
        with th.cuda.device(self._device):
            stream = th.cuda.Stream()
            stream.wait_stream(th.cuda.current_stream())
            with th.cuda.stream(stream):
                work()
            th.cuda.current_stream().wait_stream(stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """
        :param work: recorded without being done
        :return: does it
        :raises RuntimeError: if it does what cannot be recorded
        """
        with th.cuda.device(self._device):
            graph, stream = th.cuda.CUDAGraph(), th.cuda.current_stream()
            try:
                # Other threads may go on using the GPU meanwhile
                with th.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                    work()
            except BaseException:
                th.cuda.set_stream(stream)  # `th.cuda.graph` leaves its own behind where the end of a recording fails
                raise
        self._pool = graph.pool()
        return graph.replay


class _Recording:
    """
    Work with the tensors it reads from and writes to.

    :param work: from inputs to outputs, both named tuples of tensors and dictionaries of them
    :param inputs: of the first time, to be copied
    """

    def __init__(self, work: Callable[[Any], Any], inputs: Any) -> None:
        self._work = work
        self._inputs = map_fields(th.clone, inputs)
        self._outputs: Any = None
        self.n_warm_ups = 0
        self.replay: Callable[[], None] | None = None
        self.addresses: Hashable = None

    def set_inputs(self, inputs: Any) -> None:
        """
        :param inputs: of the shapes and types of the first ones
        """
        th._foreach_copy_(tensors_of(self._inputs), tensors_of(inputs))

    def do(self) -> None:
        """
        What is recorded.
        """
        outputs = self._work(self._inputs)
        if self._outputs is None:
            self._outputs = map_fields(th.clone, outputs)
        else:
            th._foreach_copy_(tensors_of(self._outputs), tensors_of(outputs))

    def outputs(self) -> Any:
        """
        :return: of the last time, as tensors of their own
        """
        return map_fields(th.clone, self._outputs)


class GraphedWork:
    """
    Does work by recordings where that is possible, and as usual where it is not.

    The recordings belong to the networks and optimisers whose tensors they change: a copy begins without any.

    :param make_recorder: makes what records
    """

    def __init__(self, make_recorder: Callable[[], Recorder]) -> None:
        self._make_recorder = make_recorder
        self._failed = False
        self.forget()

    def __deepcopy__(self, memo: dict[int, Any]) -> "GraphedWork":
        return GraphedWork(self._make_recorder)

    def forget(self) -> None:
        """
        Record anew from now on, in memory of its own: what the recordings had is given back with them.
        """
        self._recordings: dict[Hashable, _Recording] = {}
        self._recorder = self._make_recorder()

    def run(self, key: Hashable, addresses: Hashable, work: Callable[[Inputs], Outputs], inputs: Inputs) -> Outputs:
        """
        :param key: of everything that decides which kernels run, and is neither in the inputs nor changed in place
        :param addresses: of everything that is changed in place. Where they are others than a recording's, the model
            has got other parameters or optimisers, and no recording is of use any more
        :param work: from inputs to outputs
        :param inputs: named tuple of tensors and dictionaries of them
        :return: what ``work`` returns
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
