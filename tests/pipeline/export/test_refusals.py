"""Mistakes of a request are one line, and nothing is written."""

import io

import pyarrow.parquet as pq
import pytest

from capfilt.stages.errors import UserError
from capfilt.stages.shards.write import encode_parquet
from capfilt.stages.storage.layout import corpus_shard, node_record
from tests.pipeline.export.exported_run import export, make_run


@pytest.fixture
def own_run(tmp_path):
    return make_run(tmp_path / "own")


def message_of(run_dir, out, form="parquet", **request):
    with pytest.raises(UserError) as error:
        export(run_dir, out, form, **request)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"round": 2}, "--round 2: is not bootstrapped"),
        ({"columns": ("licence",)}, "--columns licence: the run has no such column (did you mean LICENSE?)"),
        ({"columns": ("image",)}, "--columns image: the run has no such column"),
    ],
)
def test_requests_that_the_run_cannot_meet(exported_run, tmp_path, request_, message):
    assert message in message_of(exported_run, tmp_path / "out", **request_)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else(exported_run, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "holds something else (thesis.tex)" in message_of(exported_run, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("folder", ["", "/corpus/web", "/rounds/1", "/exports"])
def test_a_folder_of_the_run_itself(exported_run, folder):
    assert "lies in the run directory" in message_of(exported_run, exported_run.store.url + folder)


def test_a_run_that_is_not_bootstrapped(own_run, tmp_path):
    own_run.store.remove(node_record("bootstrap.1"))
    assert "no round is bootstrapped yet" in message_of(own_run, tmp_path / "out")


def test_human_pairs_that_are_not_downloaded(own_run, tmp_path):
    own_run.store.remove(node_record("fetch"))
    assert "has not downloaded its human pairs" in message_of(own_run, tmp_path / "out", human=True)


def change_column(run_dir, shard, name, change):
    """Replace a column of a corpus shard by what `change` makes of its values, None: remove it."""
    path = corpus_shard("web", shard).parquet
    table = pq.read_table(io.BytesIO(run_dir.store.read(path)))
    index = table.schema.get_field_index(name)
    if change is None:
        table = table.drop_columns([name])
    else:
        values = change(table[name].to_pylist())
        table = table.set_column(index, name, [values])
    run_dir.store.put(path, encode_parquet(table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "source web has no column uid"),
        (lambda uids: [None, *uids[1:]], "image web/00000000000 has the uid None"),
        (lambda uids: ["G" * 32, *uids[1:]], "has the uid 'gggg"),
        (lambda uids: [uids[0][:31], *uids[1:]], "allowed: 32 hex digits"),
        (lambda uids: [uids[0] + "0", *uids[1:]], "allowed: 32 hex digits"),
        (lambda uids: [uids[1].upper(), *uids[1:]], "2 images have the uid"),
        (lambda uids: list(range(len(uids))), "column uid of source web is int64"),
    ],
)
def test_uids_that_name_no_subset(own_run, tmp_path, change, message):
    change_column(own_run, 0, "uid", change)
    assert message in message_of(own_run, tmp_path / "out", "datacomp-uids")
    assert not (tmp_path / "out").exists()


def test_a_uid_of_an_image_that_failed_does_not_matter(own_run, tmp_path):
    change_column(own_run, 0, "uid", lambda uids: [*uids[:5], None, *uids[6:]])
    export(own_run, tmp_path / "out", "datacomp-uids")


def test_a_column_of_different_types(own_run, tmp_path):
    change_column(own_run, 0, "similarity", lambda values: ["text" for _ in values])
    message = message_of(own_run, tmp_path / "out", human=True, columns=("similarity",))
    assert "similarity is string in web, double in more, double in human" in message


def test_verdicts_that_have_changed_since_an_export_began(own_run, tmp_path):
    from tests.pipeline.export import exported_run as made

    export(own_run, tmp_path / "out", "parquet")
    with pytest.MonkeyPatch.context() as patch:
        original = made.candidate_rows
        patch.setattr(made, "candidate_rows", lambda *a: [row | {"itm_prob": 0.4} for row in original(*a)])
        made.write_candidates(own_run.store, "web", 0)
    assert "the run has other verdicts or images now" in message_of(own_run, tmp_path / "out")
