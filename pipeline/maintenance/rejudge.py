"""`capfilt rejudge`: a named set of verdicts from the scores of a round, without a model and without Ray.

The description of the set is written first, so that its name stands for one policy from then on, and shard by
shard its verdicts. After an interruption the same command judges the shards that are left.
"""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace

from capfilt.pipeline.config.load import ConfigError
from capfilt.pipeline.console.activity import Tell, tell_nobody
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.bootstrap.content_flags import CONTENT_FLAGS
from capfilt.stages.rows import CANDIDATE_SCHEMA
from capfilt.stages.shards.attempts import listed_file
from capfilt.stages.shards.records import CandidatesRecord
from capfilt.stages.storage.layout import (
    DEFAULT_VERDICTS,
    candidates_folder,
    candidates_shard,
    records_folder,
    verdict_set_folder,
    verdict_set_record,
    verdicts_folder,
    verdicts_shard,
)
from capfilt.stages.storage.sql import open_database, open_parquet
from capfilt.stages.verdicts.judge import Judge
from capfilt.stages.verdicts.policy import Cut, Policy
from capfilt.stages.verdicts.rules import PolicyError, PolicyText
from capfilt.stages.verdicts.sets import (
    NAME,
    VerdictSet,
    VerdictSetError,
    VerdictsRecord,
    digest_candidates,
    list_sets,
    read_set,
)

THREADS, STORE_THREADS = 4, 32
"""Shards that are judged at the same time, on a disk and on an object store."""


@dataclass(frozen=True)
class Rejudged:
    """A set that is complete."""

    set: VerdictSet
    run: dict[str, dict[str, int]]
    """The verdicts of the run itself, in the form of `VerdictSet.verdicts`."""
    judged: int
    """Shards that this call has judged; the others were done before."""
    is_remade: bool
    """Whether the set had been made from other candidates, which have been replaced since."""


@dataclass(frozen=True)
class _Round:
    """The candidates of a round."""

    number: int
    records: list[CandidatesRecord]
    schema: pa.Schema
    """Columns of the candidates of all sources."""
    is_older: bool
    """Whether an earlier version wrote candidates of it, without the flags of content."""
    digest: str


def rejudge_round(
    run_dir: RunDir, name: str, text: PolicyText, round_: int | None = None, tell: Tell = tell_nobody
) -> Rejudged:
    """Make a set, or finish it, or make it again if candidates have been replaced since.

    Args:
        run_dir: as `hold_run` gives it.
        name: of the set.
        text: its policy; without rules that which the set has.
        round_: whose candidates are judged; None: those of the last round.
        tell: receives what is done at the moment.

    Raises:
        ConfigError, PolicyError, VerdictSetError, StoreError: one line for the user; nothing was written.
    """
    check_name(name)
    tell("reading the records of the candidates")
    candidates = _read_round(run_dir, _choose_round(run_dir, round_))
    policy_text = _policy_of(run_dir, name, candidates.number, text)
    policy = Policy.parse(policy_text, candidates.schema)
    _check_flags(candidates, policy_text)
    before = read_set(run_dir.store, name, candidates.number)
    is_remade = before is not None and before.candidates != candidates.digest
    if before is not None and not is_remade:
        found = before
    else:
        cuts = _find_cuts(run_dir, policy, candidates, tell)
        found = VerdictSet(
            name=name,
            round=candidates.number,
            policy=policy_text,
            cuts=tuple(cuts),
            candidates=candidates.digest,
        )
        run_dir.lease.check()
        run_dir.store.put_json(verdict_set_record(name, found.round), msgspec.to_builtins(found))
    try:
        done, judged = _judge_round(run_dir, found, policy, candidates, tell)
    except PolicyError:
        if before is None:
            remove_set(run_dir, name, found.round)
        raise
    run = sum((_flatten(record.candidates) for record in candidates.records), Counter[tuple[str, str]]())
    return Rejudged(done, _nest(run), judged, is_remade)


def check_name(name: str) -> None:
    """Check that a set may have this name.

    Raises:
        VerdictSetError: it may not.
    """
    if name == DEFAULT_VERDICTS:
        raise VerdictSetError(f"--name {DEFAULT_VERDICTS}: the verdicts of the run itself; give another name")
    if not NAME.fullmatch(name):
        raise VerdictSetError(
            f"--name {name}: no name of a verdict set; allowed: up to 64 letters, digits, '.', '_' and '-', "
            "of which the first is a letter or a digit"
        )


def remove_set(run_dir: RunDir, name: str, round_: int) -> None:
    """Remove a set: the records of its shards, then its files, then its description."""
    folder = verdict_set_folder(name, round_)
    for each in (records_folder(folder), folder):
        run_dir.lease.check()
        run_dir.store.remove(each)
    run_dir.store.remove_file(verdict_set_record(name, round_))


def _choose_round(run_dir: RunDir, round_: int | None) -> int:
    """The round to judge.

    Raises:
        ConfigError: it is not bootstrapped.
    """
    judging = [node for node in run_dir.nodes.values() if node.kind.judges]
    done = [node.round for node in judging if run_dir.ledger.node(node.name) is not None]
    place = run_dir.store.url
    if not done:
        raise ConfigError(f"{place}: no round is bootstrapped yet; finish one with capfilt run")
    if round_ is not None and round_ not in done:
        raise ConfigError(
            f"--round {round_}: not bootstrapped in {place}; allowed: {', '.join(map(str, done))}"
        )
    return done[-1] if round_ is None else round_


def _read_round(run_dir: RunDir, round_: int) -> _Round:
    records = [
        record
        for source in run_dir.config.of_kind("web")
        for record in run_dir.ledger.records(candidates_folder(round_, source))
        if isinstance(record, CandidatesRecord)
    ]
    schema, is_older = CANDIDATE_SCHEMA, False
    for record in {record.source: record for record in reversed(records)}.values():
        data = run_dir.store.read(candidates_file(record))
        own = pq.read_schema(io.BytesIO(data)).remove_metadata()
        schema = pa.unify_schemas([schema, own], promote_options="permissive")
        is_older = is_older or "text_sim" not in own.names  # written since there are flags of content
    return _Round(round_, records, schema, is_older, digest_candidates(records))


def _check_flags(candidates: _Round, text: PolicyText) -> None:
    """Check that the candidates have the flags that a policy drops by.

    Raises:
        PolicyError: an earlier version wrote them, which knew no such flag.
    """
    for flag in text.drop_flags:
        if candidates.is_older and flag in CONTENT_FLAGS:
            raise PolicyError(
                f"--drop-flag {flag}: an earlier version wrote the candidates of round {candidates.number}, "
                "without this flag; drop by a condition on the column text instead, for example "
                "--drop \"regexp_matches(text, '(?i)click to')\""
            )


def candidates_file(record: CandidatesRecord) -> str:
    """The file of a shard of candidates, relative to the run directory."""
    return listed_file(candidates_shard(record.round, record.source, record.shard), record, "parquet")


def _policy_of(run_dir: RunDir, name: str, round_: int, text: PolicyText) -> PolicyText:
    """The policy of a set: that which the name stands for, in this or in another round.

    Raises:
        VerdictSetError: another policy is given than the name stands for.
    """
    has_rules = bool(text.keep or text.drop or text.drop_flags)
    rounds = [number for each, number in list_sets(run_dir.store) if each == name]
    for number in sorted(rounds, key=lambda number: number != round_):
        known = read_set(run_dir.store, name, number)
        if known is None:
            continue
        if has_rules and not known.policy.means_the_same(text):
            raise VerdictSetError(
                f"--name {name}: taken by another policy (round {number}: {known.policy}); give another "
                "name, or no rules to use that policy"
            )
        return known.policy
    return text


def _find_cuts(run_dir: RunDir, policy: Policy, candidates: _Round, tell: Tell) -> list[Cut]:
    """Check the scopes of a policy against the candidates, and turn its shares into thresholds."""
    store = run_dir.store
    has_scope = any(rule.scope for rule in (*policy.keep, *policy.drop))
    if not has_scope and not policy.has_shares:
        return []
    tell("looking through the scores of the round")
    files = [store.address(candidates_file(record)) for record in candidates.records]
    schema = pa.schema([candidates.schema.field(name) for name in policy.read_columns])
    with open_database() as sql:
        sql.register("rows", open_parquet(files, schema, store.options))
        policy.check_scopes(sql, "rows")
        return policy.find_cuts(sql, "rows")


def _judge_round(
    run_dir: RunDir, found: VerdictSet, policy: Policy, candidates: _Round, tell: Tell
) -> tuple[VerdictSet, int]:
    """Judge every shard that is not done, and complete the description of the set.

    Returns:
        The complete description, and the number of shards that were judged.
    """
    judged, verdicts = 0, Counter[tuple[str, str]]()
    for number, (record, is_new) in enumerate(_judge_shards(run_dir, found, policy, candidates), 1):
        judged += is_new
        verdicts += _flatten(record.verdicts)
        if number % 100 == 0:
            tell(f"judging: {number:,} of {len(candidates.records):,} shards")
    _remove_others(run_dir, found, candidates.records)
    done = replace(found, is_done=True, shards=len(candidates.records), verdicts=_nest(verdicts))
    if done != found:
        run_dir.lease.check()
        place = verdict_set_record(found.name, found.round)
        run_dir.store.put_json(place, msgspec.to_builtins(done))
    return done, judged


def _judge_shards(
    run_dir: RunDir, found: VerdictSet, policy: Policy, candidates: _Round
) -> Iterator[tuple[VerdictsRecord, bool]]:
    """(record, whether it was judged now) of every shard, in order."""
    store, local = run_dir.store, threading.local()
    sources = {record.source for record in candidates.records}
    folders = {source: verdicts_folder(found.name, found.round, source) for source in sources}
    present = {source: set(run_dir.ledger.committed_shards(folders[source])) for source in sources}
    for folder in folders.values():
        store.remove_temporaries(folder)

    def judge(record: CandidatesRecord) -> tuple[VerdictsRecord, bool]:
        run_dir.lease.check()
        if not hasattr(local, "judge"):
            local.judge = Judge(store, found, policy)
        if record.shard in present[record.source] and (done := local.judge.find_done(record)) is not None:
            return done, False
        return local.judge.judge(record), True

    pool = ThreadPoolExecutor(THREADS if store.is_local else STORE_THREADS)
    try:
        yield from pool.map(judge, candidates.records)
    finally:
        pool.shutdown(cancel_futures=True)


def _remove_others(run_dir: RunDir, found: VerdictSet, records: Iterable[CandidatesRecord]) -> None:
    """Remove verdicts on shards that the round has no more."""
    wanted: dict[str, set[int]] = {}
    for record in records:
        wanted.setdefault(record.source, set()).add(record.shard)
    for source in run_dir.config.of_kind("web"):
        folder = verdicts_folder(found.name, found.round, source)
        for shard in set(run_dir.ledger.committed_shards(folder)) - wanted.get(source, set()):
            place = verdicts_shard(found.name, found.round, source, shard)
            run_dir.store.remove_file(place.record)
            run_dir.store.remove_file(place.parquet)


def _flatten(verdicts: dict[str, dict[str, int]]) -> Counter[tuple[str, str]]:
    return Counter({(origin, verdict): n for origin, of in verdicts.items() for verdict, n in of.items()})


def _nest(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (origin, verdict), n in sorted(counts.items()):
        found.setdefault(origin, {})[verdict] = n
    return found
