"""Credentials in configs and addresses are refused and never repeated."""

import pytest

from capfilt.pipeline.config.credentials import find_credentials
from capfilt.pipeline.config.load import (
    ConfigError,
    dump_config,
    load_config,
    parse_config,
    refuse_credentials,
)
from tests.tiny import tiny_data, write_config

OPTIONS = [  # storage options with a credential, and the key that the error names
    ({"key": "AKIAX", "endpoint_url": "http://a"}, "key"),
    ({"secret": "s3cr3t"}, "secret"),
    ({"client_kwargs": {"aws_secret_access_key": "s3cr3t"}}, "client_kwargs.aws_secret_access_key"),
    ({"token": {"private_key": "s3cr3t"}}, "token"),
    ({"password": "s3cr3t"}, "password"),
    ({"account_key": "s3cr3t"}, "account_key"),
    ({"secret_key": "s3cr3t"}, "secret_key"),
    ({"auth": ["AKIAX", "s3cr3t"]}, "auth"),
    ({"sas_token": "s3cr3t"}, "sas_token"),
    ({"connection_string": "AccountKey=s3cr3t"}, "connection_string"),
    ({"s3_additional_kwargs": {"SSECustomerKey": "s3cr3t"}}, "s3_additional_kwargs.SSECustomerKey"),
    (
        {"s3_additional_kwargs": {"CopySourceSSECustomerKey": "s3cr3t"}},
        "s3_additional_kwargs.CopySourceSSECustomerKey",
    ),
    (
        {"client_kwargs": {"headers": {"Authorization": "Bearer s3cr3t"}}},
        "client_kwargs.headers.Authorization",
    ),
    ({"headers": {"Cookie": "s3cr3t"}}, "headers.Cookie"),
    ({"headers": {"X-Api-Key": "s3cr3t"}}, "headers.X-Api-Key"),
    ({"headers": {"x-amz-security-token": "s3cr3t"}}, "headers.x-amz-security-token"),
    ({"encryptionKey": "s3cr3t"}, "encryptionKey"),
    ({"aws_session": "s3cr3t"}, "aws_session"),
    ({"account_sas": "s3cr3t"}, "account_sas"),
    ({"headers": [["Accept", "image/*"], ["Authorization", "s3cr3t"]]}, "headers.1"),
    ({"headers": ["Accept: image/*", "X-Api-Key: s3cr3t"]}, "headers.1"),
]
ADDRESSES = {  # address, and what the error names
    "s3://AKIAX:s3cr3t@bucket/run": "user or password",
    "s3://AKIAX:s3/cr/3t@bucket/run": "user or password",  # AWS secret keys may contain slashes
    "https://me:s3cr3t@host/a.parquet": "user or password",
    "https://s3cr3t@host/a.parquet": "user or password",
    "https://s3cr3t:@host:8080/a.parquet": "user or password",
    "simplecache::https://s3cr3t@host/a.parquet": "user or password",
    "https://b.s3.test/a?X-Amz-Credential=AKIAX&X-Amz-Date=1": "X-Amz-Credential",
    "https://b.s3.test/a?X-Amz-Expires=9&X-Amz-Signature=s3cr3t": "X-Amz-Signature",
    "https://b.s3.test/a?x-amz-security-token=s3cr3t": "x-amz-security-token",
    "https://b.s3.test/a?AWSAccessKeyId=AKIAX&Expires=1": "AWSAccessKeyId",
    "https://b.s3.test/a?Expires=1&Signature=s3cr3t": "Signature",
    "https://gcs.test/a?X-Goog-Signature=s3cr3t": "X-Goog-Signature",
    "https://a.blob.test/c/a?sv=2024&sr=b&sig=s3cr3t": "sig",
    "https://a.blob.test/c/a?sig=s3cr3t&se=2030": "sig",
    "https://host/a?width=3&token=s3cr3t": "token",
    "https://host/a?access_token=s3cr3t": "access_token",
    "https://host/a?api_key=s3cr3t": "api_key",
    "https://host/a?apiKey=s3cr3t": "apiKey",
    "https://host/a?api%5Fkey=s3cr3t": "api_key",
    "https://host/a#access_token=s3cr3t": "access_token",
    "https://host/a?password=s3cr3t": "password",
    "https://host/a?jwt=s3cr3t": "jwt",
    "https://host/a?auth_key=s3cr3t": "auth_key",
    "https://host/a?sas=s3cr3t": "sas",
    "https://host/a?aws_session=s3cr3t": "aws_session",
    "https://host/a?sessionId=s3cr3t": "sessionId",
}
PLACES = [
    "run.dir", "sources.web.rows.manifest", "sources.web.images", "sources.web.base_url", "fetch.image_root",
    "captioner.checkpoint", "model.tokenizer", "run.storage_options.endpoint_url",
    "sources.web.rows.storage_options.client_kwargs.endpoint_url",
]  # fmt: skip
ALLOWED = [
    "s3://bucket/run@2",
    "s3://bucket/key=3/token=4",
    "s3://arn:aws:s3:us-east-1:1234:accesspoint/mine/run@2",
    "http://[::1]:9000/run@2",
    "http://host:9000/run@2",
    "http://host:9000?x=me@host",
    "abfss://container@account.dfs.core.windows.net/run",
    "github://org:repo@main/list.csv",
    "hf://org/name@main",
    "hf://name@main",
    "https://host/img?width=300&height=200&key=7",
    "https://host/img?sig=7",
    "https://host/img?token=",
    "/data/a?token=b",
    "runs/me@host",
    "hf://hf_internal_testing@main",
    "a bearer of news, basic vocabulary",
]


def put(data, path, value):
    *parents, last = path.split(".")
    for name in parents:
        data = data.setdefault(name, {})
    data[last] = value


def error_line(data):
    """The error of a config with one credential: a single line that does not repeat it."""
    with pytest.raises(ConfigError) as error:
        parse_config(data, "c.yaml")
    line = str(error.value)
    assert "environment" in line and "\n" not in line
    assert not any(secret in line for secret in ("s3cr3t", "s3/cr", "AKIAX"))
    return line


@pytest.mark.parametrize("section", ["run", "sources.web.rows", "fetch"])
@pytest.mark.parametrize(("options", "where"), OPTIONS, ids=[where for _, where in OPTIONS])
def test_storage_option_is_refused_by_name_and_not_repeated(tmp_path, section, options, where):
    data = tiny_data(tmp_path)
    put(data, f"{section}.storage_options", options)
    assert error_line(data).startswith(f"c.yaml: {section}.storage_options.{where}: this is a credential; ")


@pytest.mark.parametrize(("address", "what"), ADDRESSES.items())
def test_address_is_refused_by_its_form_and_not_repeated(tmp_path, address, what):
    data = tiny_data(tmp_path)
    data["run"]["dir"] = address
    line = error_line(data)
    assert line.startswith("c.yaml: run.dir: this address contains ") and what in line


@pytest.mark.parametrize("place", PLACES)
def test_address_is_refused_in_every_key(tmp_path, place):
    data = tiny_data(tmp_path)
    put(data, place, "https://host/a?token=s3cr3t")
    assert error_line(data).startswith(f"c.yaml: {place}: this address contains token, ")


@pytest.mark.parametrize("place", ["sources.web.rows.manifest", "fetch.blocked"])
def test_every_address_of_a_list_is_checked(tmp_path, place):
    data = tiny_data(tmp_path)
    put(data, place, ["https://host/a", "https://s3cr3t@host/a"])
    assert error_line(data).startswith(f"c.yaml: {place}.1: this address contains a user ")


@pytest.mark.parametrize("address", ALLOWED)
def test_addresses_without_credentials_are_accepted(address):
    assert list(find_credentials({"run": {"dir": address}})) == []


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (f"hf://hf_{'s3cr3t' * 5}@org/name", "a Hugging Face token"),
        (f"hf://org/name@hf_{'s3cr3t' * 5}", "a Hugging Face token"),
        (f"github://org:ghp_{'s3cr3t' * 6}@main/list.csv", "a GitHub token"),
        (f"AKIA{'X' * 16}", "an access key of AWS"),
        (f"eyJ{'s3cr3t' * 3}.eyJ{'s3cr3t' * 3}.s3cr3t", "a JSON web token"),
    ],
)
def test_token_is_refused_by_its_form_wherever_it_stands(tmp_path, value, what):
    data = tiny_data(tmp_path)
    put(data, "run.name", value)
    assert error_line(data).startswith(f"c.yaml: run.name: this value contains {what}, ")


def test_address_on_the_command_line_is_refused_before_any_request():
    for call in (
        lambda: load_config("https://host/c.yaml?token=s3cr3t"),
        lambda: refuse_credentials("https://host/c.yaml?token=s3cr3t", "CONFIG"),
    ):
        with pytest.raises(
            ConfigError, match=r"^CONFIG: this address contains token, .*environment"
        ) as error:
            call()
        assert "s3cr3t" not in str(error.value)
    refuse_credentials("s3://bucket/run", "RUN")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.dir.x=s3cr3t", "--set run.dir.x: dir is a value, not a section"),
        ("run.storage_options=s3cr3t", "--set run.storage_options: this is a section; set its keys, "),
        ("run.seed=[s3cr3t", "--set run.seed: the value is not YAML; "),
        ("run.storage_options.secret=s3cr3t", "--set run.storage_options.secret: this is a credential; "),
    ],
)
def test_error_of_an_override_does_not_repeat_its_value(tmp_path, override, message):
    config = write_config(tmp_path / "c.yaml", tiny_data(tmp_path))
    with pytest.raises(ConfigError) as error:
        load_config(config, [override])
    assert str(error.value).startswith(message) and "s3cr3t" not in str(error.value)


def test_options_that_only_say_where_credentials_are_stored_are_accepted(tmp_path):
    options = {
        "endpoint_url": "http://host:9000", "profile": "me", "anon": True, "token": "anon", "auth": None,
        "s3_additional_kwargs": {"SSEKMSKeyId": "alias/mine", "SSECustomerAlgorithm": "AES256"},
        "config_kwargs": {"signature_version": "s3v4"},
    }  # fmt: skip
    data = tiny_data(tmp_path, storage_options=options)
    rows = data["sources"]["web"]["rows"]
    rows |= {"storage_options": {"anon": True}, "url_column": "key", "caption_column": "token"}
    data["run"]["dir"] = "s3://bucket/run@2"
    config = parse_config(data, "c.yaml")
    assert config.run.storage_options == options and "profile: me" in dump_config(config)
    assert (config.sources["web"].rows.url_column, config.sources["web"].rows.caption_column) == (
        "key",
        "token",
    )
