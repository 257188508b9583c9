"""A stand-in for CUDA graphs."""

from collections.abc import Callable

from sb3_ext import REDQSAC


class Tape:
    """
    What a CUDA graph does, on a CPU: recording does nothing, replaying does what was recorded, whatever Python says by
    then. (On a GPU the kernels are recorded; here the function, whose inputs and outputs are the recording's tensors.)
    """

    def __init__(self) -> None:
        self.warm_ups = self.records = self.replays = 0

    def warm_up(self, work: Callable[[], None]) -> None:
        self.warm_ups += 1
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        self.records += 1

        def replay() -> None:
            self.replays += 1
            work()

        return replay


class Recorded(REDQSAC):
    """REDQSAC as on a GPU, with a :class:`Tape` for CUDA."""

    def _recorder_maker(self) -> Callable[[], Tape] | None:
        self.tape = tape = Tape()
        return (lambda: tape) if self.cuda_graphs else None

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "tape"]
