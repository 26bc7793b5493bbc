"""The keys of the config."""

from collections.abc import Iterator

from capfilt.pipeline.config.tree import key_annotations, named_section_of, section_of, walk_sections


def leaf_paths() -> Iterator[str]:
    """Dotted path of every key that is no section."""
    for path, section in walk_sections():
        for name, annotation in key_annotations(section).items():
            if named_section_of(annotation) is None and section_of(annotation) is None:
                yield f"{path}.{name}" if path else name
