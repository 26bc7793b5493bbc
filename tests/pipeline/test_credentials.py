"""No credential gets into a config, and thereby into a run directory or onto a terminal."""

import pytest

from pipeline.load import ConfigError, dump_config, parse_config
from tests.tiny import tiny_data


def put(data, path, value):
    *parents, last = path.split(".")
    for name in parents:
        data = data.setdefault(name, {})
    data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        ("run.storage_options", {"key": "AKIAX", "endpoint_url": "http://a"}, "run.storage_options.key"),
        ("run.storage_options", {"secret": "s3cr3t"}, "run.storage_options.secret"),
        (
            "run.storage_options",
            {"client_kwargs": {"aws_secret_access_key": "s3cr3t"}},
            "run.storage_options.client_kwargs.aws_secret_access_key",
        ),
        ("run.storage_options", {"token": {"private_key": "s3cr3t"}}, "run.storage_options.token"),
        ("sources.web.rows.storage_options", {"password": "s3cr3t"}, "sources.web.rows.storage_options.password"),
        ("fetch.storage_options", {"account_key": "s3cr3t"}, "fetch.storage_options.account_key"),
        ("run.dir", "s3://AKIAX:s3cr3t@bucket/run", "run.dir"),
        ("sources.web.rows.manifest", ["https://me:s3cr3t@host/a.parquet"], "sources.web.rows.manifest.0"),
    ],
)  # fmt: skip
def test_a_credential_is_refused_by_name_and_never_repeated(tmp_path, path, value, where):
    data = tiny_data(tmp_path)
    put(data, path, value)
    with pytest.raises(ConfigError) as error:
        parse_config(data, "c.yaml")
    line = str(error.value)
    assert line.startswith(f"c.yaml: {where}: ") and "environment" in line and "\n" not in line
    assert "s3cr3t" not in line and "AKIAX" not in line


def test_what_only_says_where_credentials_are_is_taken(tmp_path):
    options = {"endpoint_url": "http://host:9000", "profile": "me", "anon": True, "token": "anon"}
    data = tiny_data(tmp_path, storage_options=options)
    data["sources"]["web"]["rows"]["storage_options"] = {"anon": True}
    data["run"]["dir"] = "s3://bucket/run@2"
    config = parse_config(data, "c.yaml")
    assert config.run.storage_options == options and "profile: me" in dump_config(config)
