"""How the benchmarks write down what they measured, and with which packages."""

import csv
import platform
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import Any


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
