"""Places that cannot be a run directory; tests/stages/test_store_s3.py has buckets."""

import errno
import os

import pytest

from pipeline.run_dir import check_writable
from stages.store import Store, StoreError


def test_unwritable_place_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"run\.dir .*file/run: cannot write there"):
        check_writable(Store(str(tmp_path / "file" / "run")))


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_hard_links_is_named_as_such(code, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(code, os.strerror(code), source, None, target)

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match=r"run\.dir .*: this file system has no hard links") as error:
        check_writable(Store(str(tmp_path / "run")))
    assert "s3://" in str(error.value) and "\n" not in str(error.value)
    assert os.listdir(tmp_path / "run") == []
