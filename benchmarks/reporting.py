"""How the benchmarks write down what they measured, and with which packages."""

import csv
import os
import platform
import shlex
import sys
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


def machine(*packages: str, device: str = "cpu", n_threads: int | None = None) -> str:
    """
    :param packages: names of distributions
    :param device: of the measurements
    :param n_threads: of PyTorch; ``None``: as in this process
    :return: one line on what the figures were measured with
    """
    gpu = f", {th.cuda.get_device_name()}" if device == "cuda" else ""
    cores = f"{n_threads or th.get_num_threads()} threads, {os.cpu_count()} cores, {cpu_capability()}"
    return f"{installed_versions(packages)}, {cores}{gpu}"


def write_csv(path: Path, rows: list[dict[str, Any]], machine: str) -> None:
    """
    Write beside, then rename: a reader never sees half a file. Machine and command stand above the rows.

    :param path: CSV file
    :param rows: one dictionary a row, all with the same keys
    :param machine: one line on what the figures were measured with
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    with partial.open("w", newline="") as file:
        file.write(f"# {machine}\n")
        file.write(f"# python benchmarks/{Path(sys.argv[0]).name} {shlex.join(sys.argv[1:])}\n")
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
