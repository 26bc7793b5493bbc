"""The package from which everything is imported, for example `capfilt.models.network.med`.

An installed wheel holds its subpackages beside this file. In a checkout they are the top-level folders of the
repository, one level up, so that `python -m pipeline` and `ray job submit --working-dir .` need no
installation.
"""

from pathlib import Path

__version__ = "0.1.0"

if not (Path(__file__).parent / "pipeline").is_dir():
    __path__.append(str(Path(__file__).resolve().parent.parent))
