"""A segment tree with wide nodes, updated and searched by operations on whole arrays."""

from typing import Any

import numpy as np

# Each level takes a few numpy calls, whatever its width. A million leaves need four levels of width 32, but twenty of
# width 2
_WIDTH = 32


class BlockTree:
    """
    Sums and maxima over blocks of 32 leaves, over blocks of 32 such blocks, and so on.

    A changed block is summed anew from its parts, so that rounding errors do not accumulate.

    :param n_leaves: number of leaves, which are zero at first
    """

    def __init__(self, n_leaves: int) -> None:
        self.n_leaves = n_leaves
        size = -(-n_leaves // _WIDTH) * _WIDTH
        self._sums = [np.zeros(size)]
        self._maxima = [self._sums[0]]  # both levels of leaves are the same array
        while size > _WIDTH:
            size = -(-(size // _WIDTH) // _WIDTH) * _WIDTH
            self._sums.append(np.zeros(size))
            self._maxima.append(np.zeros(size))

    @property
    def leaves(self) -> np.ndarray:
        """Values of the leaves, shape (``n_leaves``,), as a view that must not be written to."""
        return self._sums[0][: self.n_leaves]

    @property
    def total(self) -> float:
        """The sum of all leaves."""
        return float(self._sums[-1].sum())

    @property
    def maximum(self) -> float:
        """The largest leaf."""
        return float(self._maxima[-1].max())

    def update(self, indices: np.ndarray, values: np.ndarray) -> None:
        """Set leaves to values >= 0, shape (n,). If an index occurs several times, its last value counts."""
        self._sums[0][indices] = values
        for level in range(1, len(self._sums)):
            indices = indices // _WIDTH
            # Removing duplicates only pays off for many indices
            indices = np.unique(indices) if len(indices) > _WIDTH else indices
            self._sums[level][indices] = _blocks(self._sums[level - 1])[indices].sum(axis=1)
            self._maxima[level][indices] = _blocks(self._maxima[level - 1])[indices].max(axis=1)

    def find(self, masses: np.ndarray) -> np.ndarray:
        """
        Find the leaf i with ``sum(leaves[:i]) <= mass < sum(leaves[:i + 1])``, up to rounding errors.

        :param masses: in [0, total), shape (n,)
        :return: indices of leaves, shape (n,); their values are never zero
        """
        rest = masses.astype(np.float64)
        nodes = np.zeros(len(masses), dtype=np.int64)
        for level in reversed(self._sums):
            blocks = _blocks(level)[nodes]
            upper = blocks.cumsum(axis=1)
            position = (upper <= rest[:, None]).sum(axis=1)
            beyond = position == _WIDTH
            if beyond.any():
                # By rounding the mass equals that of the whole block, so take the last leaf that is not zero
                position[beyond] = _WIDTH - 1 - (blocks[beyond, ::-1] > 0).argmax(axis=1)
            at = (np.arange(len(rest)), position)
            rest = np.maximum(rest - (upper[at] - blocks[at]), 0.0)
            nodes = nodes * _WIDTH + position
        return nodes

    def nbytes(self) -> int:
        """Return the bytes of all levels."""
        return sum(level.nbytes for level in self._sums) + sum(level.nbytes for level in self._maxima[1:])

    def __getstate__(self) -> dict[str, Any]:
        used = np.flatnonzero(self.leaves)
        return {"n_leaves": self.n_leaves, "leaves": self.leaves[: used[-1] + 1 if len(used) else 0].copy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["n_leaves"])  # type: ignore[misc]
        self.update(np.arange(len(state["leaves"])), state["leaves"])

    def check_valid(self) -> None:
        """Raise an AssertionError if a node differs from the sum or the maximum of its block."""
        for level in range(1, len(self._sums)):
            n_blocks = len(_blocks(self._sums[level - 1]))
            for tree, reduce in ((self._sums, np.sum), (self._maxima, np.max)):
                expected = reduce(_blocks(tree[level - 1]), axis=1)
                assert (tree[level][:n_blocks] == expected).all(), "a node does not agree with its leaves"


def _blocks(level: np.ndarray) -> np.ndarray:
    return level.reshape(-1, _WIDTH)
