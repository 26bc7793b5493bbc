"""The captions from elsewhere that a config names."""

from __future__ import annotations

from capfilt.pipeline.config.schema import Config
from capfilt.stages.foreign.config import CandidatesError
from capfilt.stages.foreign.join import identity_of, read_joined
from capfilt.stages.foreign.pairs import ForeignCaptions
from capfilt.stages.storage.layout import captions_folder
from capfilt.stages.storage.store import Store


def captions_of(config: Config, source: str) -> list[ForeignCaptions]:
    """The captions from elsewhere for the images of a source, in the order of the config."""
    id_column = config.sources[source].rows.id_column
    return [
        ForeignCaptions(name, section, source, id_column)
        for name, section in config.candidates.items()
        if config.described_source(section) == source
    ]


def check_captions(config: Config) -> None:
    """Check that the files of all captions from elsewhere exist and have the columns that are needed.

    Raises:
        CandidatesError: the first that does not.
    """
    for source in config.described_sources:
        for captions in captions_of(config, source):
            captions.check()


def check_unchanged_captions(config: Config, store: Store) -> None:
    """Check that captions that were joined are still the same files.

    Raises:
        CandidatesError: a file has changed, or a record is damaged.
    """
    for source in config.described_sources:
        captions = captions_of(config, source)
        joined = read_joined(store / captions_folder(source))
        # Other captions than those that were joined are a change of the config, which the ledger reports.
        if joined is None or list(joined.counts) != [each.name for each in captions]:
            continue
        if joined.identity != identity_of(captions):
            raise CandidatesError(
                f"candidates.{captions[0].name}.files: the captions for {source} have changed since this run "
                "joined them; restore the files, or judge them again with --fresh join"
            )
