"""What the benchmarks say of the packages they ran with."""

import platform
from importlib import metadata


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
