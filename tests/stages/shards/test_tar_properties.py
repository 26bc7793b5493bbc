"""The reader of image tars: no exception whatever the bytes are, whole samples before a damage, and what
`tarfile` wrote otherwise."""

import bz2
import gzip
import io
import lzma
import tarfile

from capfilt.stages.shards.members import Limits, split_samples
from tests.properties import damage, draws, numbers_of_cases, text

LIMITS = Limits(5_000, frozenset({"txt", "json"}))
COMPRESSIONS = (bytes, bytes, bytes, gzip.compress, bz2.compress, lzma.compress)
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def make_samples(rng):
    """{name: {ending: content}} of up to four samples."""
    samples = {}
    for number in range(rng.randrange(1, 5)):
        folder = rng.choice(["", "a/", "./", "a/é/"])
        members = {rng.choice(["jpg", "png", "webp"]): rng.randbytes(rng.randrange(1, 700))}
        if rng.random() < 0.8:
            members["txt"] = text(rng).encode()
        if rng.random() < 0.5:
            members["json"] = b'{"a": 1}'
        if rng.random() < 0.2:
            members["cls"] = b"7"
        samples[f"{folder}{number:05d}"] = members
    return samples


def write_tar(rng, samples):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=rng.choice(FORMATS)) as tar:
        for name, members in samples.items():
            for ending in rng.sample(sorted(members), len(members)):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(members[ending])
                tar.addfile(member, io.BytesIO(members[ending]))
    return sink.getvalue()


def content_of(sample):
    return sample.image, {kind: sample.members[kind] for kind in sample.members if kind in LIMITS.texts}


def expected_content(members):
    image = next(content for kind, content in members.items() if kind in ("jpg", "png", "webp"))
    return image, {kind: content for kind, content in members.items() if kind in LIMITS.texts}


@numbers_of_cases
def test_tars_give_what_was_written_and_damaged_ones_no_exception(count):
    for rng in draws("tars", count):
        samples = make_samples(rng)
        data = write_tar(rng, samples)
        compress = rng.choice(COMPRESSIONS)
        found, problem = split_samples(compress(data), LIMITS)
        assert problem is None
        expected = [expected_content(members) for members in samples.values()]
        assert [content_of(sample) for sample in found] == expected
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            assert sorted(
                f"{sample.name}{ending}" for sample in found for ending in sample.endings
            ) == sorted("/" + name if "/" not in name else name for name in tar.getnames())
        damaged = damage(rng, compress(data))
        found, problem = split_samples(damaged, LIMITS)
        assert problem is None or problem
        assert len(found) <= 4 * len(samples)
        for sample in found:
            assert len(sample.image or b"") <= LIMITS.max_bytes
            assert sample.problem is None or sample.problem[0] in ("bad_tar", "missing_file", "too_big")


@numbers_of_cases
def test_any_bytes_are_a_damaged_tar(count):
    starts = (b"", b"\x1f\x8b\x08\0", b"BZh9", b"\xfd7zXZ\0", bytes(257) + b"ustar\x0000")
    for rng in draws("no tars", count):
        found, problem = split_samples(rng.choice(starts) + rng.randbytes(rng.randrange(1500)), LIMITS)
        assert found == [] and problem
