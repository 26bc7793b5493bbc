"""Maps the packages of the wheel to folders of the repository; the rest of the build is in pyproject.toml."""

from setuptools import find_namespace_packages, setup

FOLDERS = ("pipeline", "stages", "models", "cluster", "configs")
"""Top-level folders of the repository that are installed as `capfilt.<folder>`."""

inside = find_namespace_packages(include=[name for folder in FOLDERS for name in (folder, f"{folder}.*")])
setup(
    packages=["capfilt", *(f"capfilt.{name}" for name in inside)],
    package_dir={f"capfilt.{folder}": folder for folder in FOLDERS},
)
