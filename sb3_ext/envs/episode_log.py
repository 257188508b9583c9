"""Returns and lengths of finished games, reported and written to files as SB3's ``Monitor`` does."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stable_baselines3.common.monitor import Monitor, ResultsWriter


@dataclass
class EpisodeLog:
    """
    The statistics of one environment.

    :param t_start: time from which the seconds of episodes are counted
    :param writer: the open monitor file, if there is one
    """

    t_start: float = field(default_factory=time.time)
    writer: ResultsWriter | None = None

    def open_file(self, path: Path, env_id: str) -> None:
        """Open a monitor file. The path lacks ``.monitor.csv``, and the header contains the id."""
        header: dict[str, float | str] = {"t_start": self.t_start, "env_id": env_id}
        self.writer = ResultsWriter(str(path), header=header)

    def take_over(self, monitor: Monitor) -> None:
        """Go on with the time and the file of a ``Monitor``, which loses its file and cannot close it any more."""
        self.t_start, self.writer = monitor.t_start, monitor.results_writer
        monitor.results_writer = None

    def finish(self, total_reward: float, length: int) -> dict[str, Any]:
        """
        Return the entry ``info["episode"]`` of a whole game.

        :param total_reward: unclipped return
        :param length: frames of the emulator, which ``Monitor`` counts under ``AtariWrapper``
        """
        episode = {"r": round(total_reward, 6), "l": length, "t": round(time.time() - self.t_start, 6)}
        if self.writer is not None:
            self.writer.write_row(episode)
        return episode

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None
