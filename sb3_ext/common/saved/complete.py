"""Models and policies in files that are either complete or absent."""

import io
import pathlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stable_baselines3.common.policies import BasePolicy

from sb3_ext.files import replaced_when_complete


@contextmanager
def complete_file(path: str | pathlib.Path | io.BufferedIOBase) -> Iterator[Any]:
    """
    Open a file for SB3 to write to. SB3 itself would overwrite it, so that an interruption loses old and new content.

    :param path: file name, or an open file, which is passed on
    """
    if not isinstance(path, (str, pathlib.Path)):
        yield path
        return
    with replaced_when_complete(pathlib.Path(path)) as file:
        yield file


def model_path(path: Any) -> Any:
    """
    Apply SB3's rules for file names of models, with its warnings.

    :param path: file name, or an open file, which is passed on
    :return: with ``.zip`` if there is no suffix, and not that of a folder
    """
    if not isinstance(path, (str, pathlib.Path)):
        return path
    path = pathlib.Path(path)
    if not path.suffix:
        path = pathlib.Path(f"{path}.zip")
    while path.is_dir():
        warnings.warn(f"Path '{path}' is a folder. Will save instead to {path}_2", stacklevel=3)
        path = pathlib.Path(f"{path}_2")
    if not path.parent.exists():
        warnings.warn(f"Path '{path.parent}' does not exist. Will create it.", stacklevel=3)
    return path


class CompletelySaved(BasePolicy):
    """Mix-in for SB3's policies, to be put before the SB3 class."""

    def save(self, path: str) -> None:
        """
        Save the policy so that an interruption leaves an earlier file of the same name intact.

        :param path: file name, or an open file
        """
        with complete_file(path) as file:
            super().save(file)
