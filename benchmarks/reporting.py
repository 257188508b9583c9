"""How the benchmarks write down what they measured, and with which packages."""

import argparse
import csv
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch as th

from sb3_ext.speed.precision import cpu_capability


def installed_versions(packages: tuple[str, ...]) -> str:
    """
    :param packages: names of distributions
    :return: Python's version and those of the packages that are installed, on one line
    """
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return f"Python {platform.python_version()}, {', '.join(versions)}"


def processor() -> str:
    """
    :return: the name of its model, where the system tells
    """
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def commit_of(folder: Path) -> str:
    """
    :param folder: root of a checkout of this repository
    :return: its commit, with "+" where the package differs from it; "unknown" without git
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != folder.resolve():  # a copy within some other repository
            return "unknown"
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", "sb3_ext") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine(*packages: str, device: str = "cpu", n_threads: int | None = None) -> str:
    """
    :param packages: names of distributions
    :param device: of the measurements
    :param n_threads: of PyTorch; ``None``: as in this process
    :return: one line on what the figures were measured with
    """
    gpu = f", {th.cuda.get_device_name()}" if device == "cuda" else ""
    cores = f"{n_threads or th.get_num_threads()} threads, {os.cpu_count()} cores, {processor()}, {cpu_capability()}"
    return f"{installed_versions(packages)}, {cores}{gpu}"


def command_line(checkouts: Mapping[Path, str]) -> str:
    """
    :param checkouts: folder -> commit, which stands for it: where it lies is of no interest to others
    :return: how this script was called
    """
    words = []
    for word in sys.argv[1:]:
        option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
        commit = checkouts.get(Path(value)) if value else None  # Path("") would be Path(".")
        words.append(shlex.quote(word) if commit is None else f"{option}{equals}<checkout of {commit}>")
    return " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def write_csv(
    path: Path, rows: list[dict[str, Any]], machine: str, checkouts: Mapping[Path, str] | None = None
) -> None:
    """
    Write beside, then rename: a reader never sees half a file. Machine and command stand above the rows.

    :param path: CSV file
    :param rows: one dictionary a row, all with the same keys
    :param machine: one line on what the figures were measured with
    :param checkouts: see ``command_line``
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with partial.open("w", newline="") as file:
        file.write(f"# {machine}\n")
        file.write(f"# {command_line(checkouts or {})}\n")
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def read_csv(path: Path) -> list[dict[str, str]]:
    """
    :param path: of a CSV file with comments above the rows
    :return: its rows
    """
    with path.open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def measured_rows(parser: argparse.ArgumentParser, path: Path, column: str) -> list[dict[str, str]]:
    """
    Refuse a file that is missing or, as those of older scripts, in another format.

    :param parser: of the command line whose ``--output`` it is
    :param path: of a CSV file of contestants that took turns
    :param column: of their figures
    :return: its rows
    """
    if not path.is_file():
        parser.error(f"--output {path}: there is no such file")
    rows = read_csv(path)
    missing = [name for name in ("contestant", "round", column) if not rows or name not in rows[0]]
    if missing:
        parser.error(f"--output {path} has no columns {missing}: this version of the script did not write it")
    return rows
