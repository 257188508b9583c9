"""A film of each variant, recorded by rl_zoo3."""

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from sb3_ext.experiments.runs import RunFolder
from sb3_ext.files import replaced_when_complete

_FRAMES_PER_SECOND_OF_GIF = 15
_WIDTH_OF_GIF = 320


class NoFilm(RuntimeError):
    """rl_zoo3 recorded nothing."""

    def __init__(self, folder: RunFolder, reason: str) -> None:
        super().__init__(f"{folder.run.name}: no film: {reason}")


def one_of_each(folders: Iterable[RunFolder]) -> Iterator[RunFolder]:
    """Iterate over the first finished run of each variant in each environment."""
    seen = set()
    for folder in folders:
        key = folder.run.variant, folder.run.env
        if key not in seen and folder.is_finished():
            seen.add(key)
            yield folder


def film(folder: RunFolder, output: Path, n_timesteps: int, as_gif: bool) -> Path:
    """
    Let rl_zoo3 play the last model of a finished run, and return the film.

    :param output: the folder of the film
    :param n_timesteps: its length in steps of the environment
    :param as_gif: a GIF, 320 pixels wide, in place of an MP4 file
    :raises NoFilm: if nothing could be recorded
    """
    run = folder.run
    with tempfile.TemporaryDirectory() as recorded:
        options = ["--algo", run.algo, "--env", run.env, "-f", str(folder.path / "training"), "--seed", str(run.seed)]
        # rl_zoo3's script has no --gym-packages
        code = (
            "".join(f"import {name}; " for name in run.gym_packages) + "from sb3_ext.zoo.__main__ import main; main()"
        )
        result = subprocess.run(
            [sys.executable, "-c", code, "record_video", *options, "-n", str(n_timesteps), "-o", recorded],
            capture_output=True,
            text=True,
            check=False,
        )
        films = sorted(Path(recorded).rglob("*.mp4"))
        if result.returncode != 0 or not films:
            said = (result.stderr or result.stdout).strip().splitlines()
            raise NoFilm(folder, said[-1] if said else f"rl_zoo3.record_video ended with {result.returncode}")
        path = output / f"{run.variant}_{run.env.replace('/', '-')}.{'gif' if as_gif else 'mp4'}"
        source = _as_gif(films[0]) if as_gif else films[0]
        with replaced_when_complete(path) as file:
            file.write(source.read_bytes())
    return path


def _as_gif(film: Path) -> Path:
    """Write a GIF beside a film."""
    from moviepy import VideoFileClip

    path = film.with_suffix(".gif")
    with VideoFileClip(str(film)) as clip:
        clip.resized(width=_WIDTH_OF_GIF).write_gif(str(path), fps=_FRAMES_PER_SECOND_OF_GIF, logger=None)
    return path
