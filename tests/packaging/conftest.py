"""A wheel built from the repository, and a virtual environment in which it is all that is installed."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

#: Where the dependencies are that the tests run with.
PARENT_SITE_PACKAGES = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]


class Environment:
    """
    A virtual environment of its own.

    :param folder: where to create it
    :param sees_dependencies: whether it can import what is installed where the tests run. Only paths are added: Python
        does not execute ``.pth`` files in folders that come from a ``.pth`` file, so that a plug-in installed there
        does not leak into the environment.
    """

    def __init__(self, folder: Path, sees_dependencies: bool):
        venv.create(folder, with_pip=False)
        self.folder = folder
        self.python = str(folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
        query = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.site_packages = Path(self._output([self.python, "-c", query]).strip())
        if sees_dependencies:
            # Last in the alphabet: what the environment has itself goes first.
            (self.site_packages / "zz_dependencies.pth").write_text("\n".join(PARENT_SITE_PACKAGES) + "\n")

    @staticmethod
    def _output(command: list[str]) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout

    def pip(self, *arguments: str) -> str:
        """
        Run the pip of the parent on this environment.

        :param arguments: its command line
        :return: what it printed
        """
        return self._output([sys.executable, "-m", "pip", "--python", self.python, *arguments])

    def install(self, *what: str) -> None:
        """
        Install without dependencies and without network.

        :param what: a wheel, or options and a project
        """
        # --ignore-installed: the same version may be among the dependencies of the parent.
        self.pip("install", "--no-deps", "--no-index", "--ignore-installed", "--no-build-isolation", *what)

    def files(self) -> set[str]:
        """
        What lies in ``site-packages``.

        :return: paths relative to it; what Python compiles is left out, folders are not
        """
        paths = self.site_packages.rglob("*")
        return {str(path.relative_to(self.site_packages)) for path in paths if "__pycache__" not in path.parts}

    def start(self, *arguments: str, cwd: Path, **env: str) -> subprocess.Popen:
        """
        Start this environment's Python.

        :param arguments: its command line
        :param cwd: the folder to run in
        :param env: variables to add to those of the tests
        :return: the process
        """
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
        # Headless, and small next to the other worker processes of the tests.
        variables |= {"MPLBACKEND": "Agg", "SDL_VIDEODRIVER": "dummy", "OMP_NUM_THREADS": "1", **env}
        return subprocess.Popen(
            [self.python, *arguments],
            cwd=cwd,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, cwd: Path, **env: str) -> str:
        """
        Run this environment's Python and expect success.

        :param arguments: its command line
        :param cwd: the folder to run in
        :param env: variables to add to those of the tests
        :return: what it printed to stdout
        """
        return self.finish(self.start(*arguments, cwd=cwd, **env))

    @staticmethod
    def finish(process: subprocess.Popen, success: bool = True) -> str:
        """
        Wait for a process.

        :param process: what :meth:`start` returned
        :param success: whether it is expected to succeed
        :return: its stdout, or its stderr if it was expected to fail
        """
        try:
            stdout, stderr = process.communicate(timeout=600)
        finally:
            process.kill()
        assert (process.returncode == 0) == success, f"{process.args}\n{stdout[-2000:]}\n{stderr[-4000:]}"
        return stdout if success else stderr


@pytest.fixture(scope="session")
def new_environment(tmp_path_factory):
    """Create an environment, see :class:`Environment`."""

    def create(sees_dependencies: bool = True) -> Environment:
        return Environment(tmp_path_factory.mktemp("environment") / "venv", sees_dependencies)

    return create


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    """A copy of what the project is built from, so that no test writes into the repository."""
    folder = tmp_path_factory.mktemp("source") / "sb3_ext_source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("sb3_ext", "hyperparams"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


@pytest.fixture(scope="session")
def wheel(source, tmp_path_factory) -> Path:
    """The wheel, built offline."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel, new_environment) -> Environment:
    """An environment with the wheel. Tests do not change it."""
    environment = new_environment()
    environment.install(str(wheel))
    return environment
