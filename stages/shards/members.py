"""The members of an image tar, grouped into samples as WebDataset does, up to the first damage.

The key of a sample is the path up to the first dot of the file name, and what follows is the member's ending:
`a/0001.input.jpg` is the image of `a/0001`. WebDataset would join `22.05.png` and `22.06.png` to one sample;
here several images with different endings are samples of their own (`22.05`, `22.06`), unless one of them has
a plain ending (`22.png`) and the others have no text. A name that comes again begins another sample.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from capfilt.stages.status import BAD_TAR

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff",
    ".jpe", ".jfif", ".jp2", ".j2k", ".j2c", ".jpx", ".ico", ".ppm", ".pgm", ".pbm", ".pnm", ".apng", ".dib",
    ".jpc", ".jpf", ".pfm", ".avifs", ".img", ".image", ".heic", ".heif", ".jxl", ".psd",
)  # fmt: skip
"""Endings of image members; of several images with one key the first one in this order is read. The decoder
names the formats that it does not read."""
EXPANSION_FLOOR, EXPANSION_FACTOR = 1 << 28, 16
"""A tar may expand to this many bytes, and this many times its size: images hardly compress."""
XZ_MEMORY = 1 << 27
PIECE = 1 << 20


@dataclass
class Sample:
    """The members of one key that are needed."""

    name: str
    image: bytes | None = None
    members: dict[str, bytes] = field(default_factory=dict)
    """{ending: content} of the text and JSON members."""
    endings: list[str] = field(default_factory=list)
    """Endings of all members."""
    problem: tuple[str, str] | None = None
    """(status, message) of a member that cannot be read."""


@dataclass(frozen=True)
class Limits:
    """What is read of a tar."""

    max_bytes: int
    """Bytes of a member."""
    texts: frozenset[str]
    """Endings of members other than images whose content is needed."""


@dataclass
class _Member:
    inner: str
    """What is between key and ending: `05` of `22.05.png`."""
    kind: str
    content: bytes
    problem: tuple[str, str] | None


@dataclass
class _Group:
    base: str
    members: list[_Member] = field(default_factory=list)


class _Groups:
    """Members in the order of the tar, by key."""

    def __init__(self) -> None:
        self.all: list[_Group] = []
        self._newest: dict[str, _Group] = {}

    def add(self, base: str, member: _Member) -> None:
        group = self._newest.get(base)
        if group is None or any((m.inner, m.kind) == (member.inner, member.kind) for m in group.members):
            group = self._newest[base] = _Group(base)
            self.all.append(group)
        group.members.append(member)


def split_samples(data: bytes, limits: Limits) -> tuple[list[Sample], str | None]:
    """Samples of a tar up to the first damage, and what the damage is (None without)."""
    data, damage = _decompress(data)
    groups = _Groups()
    current: list[tuple[str, _Member]] = []
    """The member that is being read."""
    try:
        for base, member, read in _iter_members(data, limits):
            current = [(base, member)]
            member.content = read()
            groups.add(base, member)
            current = []
        if not groups.all:
            raise tarfile.ReadError("the tar has no files")
    except MemoryError:
        raise
    except Exception as error:  # parsers raise nearly anything on damaged bytes
        damage = damage or f"{type(error).__name__}: {error}"
        lost = _Member("", "", b"", (BAD_TAR, ""))
        for base, member in current:
            member.problem = lost.problem
            groups.add(base, member)
        samples = [sample for group in groups.all for sample in _samples_of(group)]
        if current:
            return [sample for sample in samples if sample.problem != lost.problem], damage
        return samples[:-1] if _is_incomplete(samples) else samples, damage
    return [sample for group in groups.all for sample in _samples_of(group)], damage


def _decompress(data: bytes) -> tuple[bytes, str | None]:
    """The tar of a compressed one up to the first damage, and what the damage is (None without)."""
    limit, pieces, size = EXPANSION_FLOOR + EXPANSION_FACTOR * len(data), [], 0
    try:
        for piece in _iter_pieces(data):
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                return b"".join(pieces), f"{len(data):,} compressed bytes expand to more than {limit:,}"
    except MemoryError:
        raise
    except Exception as error:  # OSError, EOFError, zlib.error, LZMAError
        return b"".join(pieces), f"{type(error).__name__}: {error}"
    return (b"".join(pieces) if len(pieces) > 1 else pieces[0] if pieces else data), None


def _iter_pieces(data: bytes) -> Iterator[bytes]:
    if data.startswith(b"\xfd7zXZ"):
        decompressor = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
        yield decompressor.decompress(data, PIECE)
        while not decompressor.eof:
            if decompressor.needs_input:
                raise EOFError("the xz stream ends before its end mark")
            yield decompressor.decompress(b"", PIECE)
        if decompressor.unused_data.strip(b"\0"):
            raise lzma.LZMAError("data after the end of the xz stream")
    elif data.startswith((b"\x1f\x8b", b"BZh")):
        opener = gzip.open if data.startswith(b"\x1f\x8b") else bz2.open
        with opener(io.BytesIO(data), "rb") as stream:
            while piece := stream.read1(PIECE):  # gives what precedes a damage
                yield bytes(piece)
    else:
        yield data


class _Reader:
    """Reads the content of a member when it is called."""

    def __init__(self, tar: tarfile.TarFile, member: tarfile.TarInfo, content: bytes | None) -> None:
        self.tar, self.member, self.content = tar, member, content

    def __call__(self) -> bytes:
        """The content.

        Raises:
            tarfile.ReadError: the tar ends before the member.
        """
        stream = self.tar.fileobj
        assert isinstance(stream, io.BytesIO), "the tar is in memory"
        left = stream.getbuffer().nbytes - self.member.offset_data
        if not self.member.issparse() and self.member.size > left:  # before any memory is taken
            name, size = self.member.name, self.member.size
            raise tarfile.ReadError(f"unexpected end of data: {name} has {size} bytes, {left} are left")
        if self.content is not None:
            return self.content
        content = self.tar.extractfile(self.member)
        assert content is not None, "the member is a file"
        return content.read()


def _iter_members(data: bytes, limits: Limits) -> Iterator[tuple[str, _Member, _Reader]]:
    """(key, member without content, what reads its content) of every file; tars that are joined to the first
    one are read too.

    Raises:
        tarfile.ReadError: at the first damage.
    """
    stream, start = io.BytesIO(data), 0
    files: dict[str, tarfile.TarInfo] = {}
    linked, link_limit = 0, EXPANSION_FLOOR + EXPANSION_FACTOR * len(data)
    while start < len(data) or not start:
        stream.seek(start)
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                if member.size < 0:  # tarfile would go back and read the same headers for ever
                    raise tarfile.ReadError(f"a member of {member.size} bytes")
                name = _name_of(member.name)
                if name is None or not (member.isfile() or member.islnk() or member.issym()):
                    continue
                base, inner, kind = name
                problem, target = None, member
                if member.issparse():
                    problem = (BAD_TAR, f"{member.name} is a sparse member; write the tar without --sparse")
                elif member.isfile():
                    files[member.name] = member
                else:
                    found = files.get(_target_of(member))
                    if found is None:
                        message = f"{member.name} is a link to {member.linkname}, which the tar lacks"
                        problem = ("missing_file", message)
                    else:
                        target = found
                        linked += found.size
                        if linked > link_limit:
                            raise tarfile.ReadError(f"its links expand to more than {link_limit:,} bytes")
                is_needed = f".{kind}" in IMAGE_SUFFIXES or kind in limits.texts
                if problem is None and is_needed and target.size > limits.max_bytes:
                    message = f"{member.name}: {target.size} bytes, the limit is {limits.max_bytes}"
                    problem = ("too_big", f"{message} (fetch.max_bytes)")
                content = b"" if problem is not None or not is_needed else None
                yield base, _Member(inner, kind, b"", problem), _Reader(tar, target, content)
            start = _find_next(tar, data)


def _name_of(name: str) -> tuple[str, str, str] | None:
    """(key, inner part, ending) of a member; None for hidden files, such as macOS's `._0001.jpg`."""
    folder, _, file = name.rpartition("/")
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return None
    base, _, extension = file.partition(".")
    inner, _, kind = extension.lower().rpartition(".")
    return f"{folder}/{base}", inner, kind


def _target_of(member: tarfile.TarInfo) -> str:
    if member.islnk() or member.linkname.startswith("/"):
        return member.linkname
    folder = member.name.rpartition("/")[0]
    return f"{folder}/{member.linkname}" if folder else member.linkname


def _find_next(tar: tarfile.TarFile, data: bytes) -> int:
    """Where a tar that is joined to this one begins; the end of the data if there is none.

    tarfile takes anything but a header for the end, even half a header or nothing.

    Raises:
        tarfile.ReadError: the block at which tarfile stopped is not the end mark, or what follows is no tar.
    """
    end = tar.offset
    if data[end : end + tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"neither a member nor the end mark at byte {end}")
    rest = len(data[end:].lstrip(b"\0"))
    start = len(data) - rest if rest else len(data)
    if rest and (start - end) % tarfile.BLOCKSIZE:
        raise tarfile.ReadError(f"{rest} bytes after the end mark, which are no tar")
    return start


def _samples_of(group: _Group) -> list[Sample]:
    """The samples of one key; see the module."""
    images = [m for m in group.members if f".{m.kind}" in IMAGE_SUFFIXES]
    inners = list(dict.fromkeys(m.inner for m in images))
    with_text = {m.inner for m in group.members if m not in images}
    if "" in inners:
        inners = [inner for inner in inners if not inner or inner in with_text]
    if len(inners) <= 1:
        return [_make_sample(group.base, inners[0] if inners else "", group.members)]
    return [
        _make_sample(
            f"{group.base}.{inner}" if inner else group.base,
            inner,
            [m for m in group.members if m.inner == inner or (not m.inner and m not in images)],
        )
        for inner in inners
    ]


def _make_sample(name: str, inner: str, members: Sequence[_Member]) -> Sample:
    """A sample of these members; those with its own inner part count before the others."""
    ordered = sorted(members, key=lambda m: (m.inner != inner, m.inner != ""))
    sample = Sample(name, endings=[f".{m.inner}.{m.kind}" if m.inner else f".{m.kind}" for m in members])
    images: dict[str, bytes] = {}
    for member in ordered:
        suffix = f".{member.kind}"
        if member.inner == inner or suffix not in IMAGE_SUFFIXES:
            sample.problem = sample.problem or member.problem
        if suffix in IMAGE_SUFFIXES and member.inner == inner:
            images.setdefault(suffix, member.content)
        elif suffix not in IMAGE_SUFFIXES:
            sample.members.setdefault(member.kind, member.content)
    sample.image = next((images[suffix] for suffix in IMAGE_SUFFIXES if suffix in images), None)
    return sample


def _is_incomplete(samples: Sequence[Sample]) -> bool:
    """Whether the last sample lacks members that the sample before it has."""
    return len(samples) > 1 and set(samples[-1].endings) < set(samples[-2].endings)


def read_text(members: Mapping[str, bytes], kinds: Sequence[str]) -> bytes | None:
    """The first of these members that is not empty, else any of them; None if there is none."""
    present = [members[kind] for kind in kinds if kind in members]
    return next((content for content in present if content.strip()), present[0] if present else None)
