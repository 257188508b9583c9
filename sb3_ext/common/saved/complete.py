"""Models and policies in files that are either complete or absent."""

import pathlib
import warnings
from typing import Any

from stable_baselines3.common.policies import BasePolicy

from sb3_ext.files import beside_folders, complete_file


def model_path(path: Any) -> Any:
    """
    Apply SB3's rules for file names of models, with its warnings, which are for the caller of the decorated ``save``.

    :param path: file name, or an open file, which is passed on
    :return: with ``.zip`` if there is no suffix, and not that of a folder
    """
    path = beside_folders(path, ".zip", stack_level=4)
    if isinstance(path, pathlib.Path) and not path.parent.exists():
        warnings.warn(f"Path '{path.parent}' does not exist. Will create it.", stacklevel=4)
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
