"""Fetch settings of each source, as the chains of stages use them."""

from contextlib import ExitStack
from dataclasses import replace

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.nodes.chain import fetch_configs
from capfilt.stages.fetch.by_source import FetchBySource
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.img2dataset import Img2datasetFetch
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig
from tests.tiny import tiny_data


def configs_of(data, *host):
    """Fetch settings of all sources."""
    config = parse_config(data, "test")
    with ExitStack() as stack:
        return fetch_configs(config, tuple(config.sources), stack, *host)


def test_sources_with_equal_limits_share_a_downloader():
    plain = FetchConfig()
    stage = FetchBySource(
        {
            "a": plain,
            "b": replace(plain, base_url="http://b.test", image=DecodeConfig(min_side=1)),
            "c": replace(plain, per_host=1),
        },
        workers=5,
    )
    webs = {source: each.downloader for source, each in stage.stages.items()}
    assert webs["a"] is webs["b"] is not webs["c"]
    assert {web.workers for web in webs.values()} == {5} and webs["c"].config.per_host == 1


def test_folder_that_the_run_serves_has_no_limits_and_block_lists_are_absolute(tmp_path, monkeypatch):
    data = tiny_data(tmp_path)
    data["fetch"]["blocked"] = ["list.txt", "s3://bucket/list.txt"]
    served = next(name for name, section in data["sources"].items() if "serve" in section)
    (tmp_path / "served").mkdir()
    data["sources"][served]["serve"] = str(tmp_path / "served")
    monkeypatch.chdir(tmp_path)
    configs = configs_of(data)
    assert (configs[served].robots, configs[served].per_host_per_second) == (False, None)
    assert configs[served].allow_private[-1] == "127.0.0.1"
    assert configs[served].base_url.startswith("http://127.0.0.1:")
    outside = configs_of(data, "127.0.0.2")[served]  # as on a cluster, whose nodes do not reach the loopback
    assert outside.base_url.startswith("http://127.0.0.2:") and outside.allow_private[-1] == "127.0.0.2"
    others = [each for name, each in configs.items() if name != served]
    assert others and all(each.robots and each.per_host_per_second for each in others)
    assert configs[served].blocked == (str(tmp_path / "list.txt"), "s3://bucket/list.txt")


def test_settings_of_a_source_replace_those_of_the_section_fetch(tmp_path):
    data = tiny_data(tmp_path)
    (tmp_path / "shapes/web").mkdir(parents=True)
    data["sources"]["human"]["fetch"] = {"per_host": 3}
    configs = configs_of(data)
    assert (configs["human"].per_host, configs["human"].image.min_side) == (3, DecodeConfig().min_side)
    assert configs["test"].per_host == FetchConfig().per_host and configs["test"].image.min_side == 16


def test_img2dataset_downloads_urls_and_never_reads_folders(tmp_path):
    data = tiny_data(tmp_path)
    data["fetch"] = {"backend": "img2dataset", "robots": False, "per_host_per_second": None}
    for number, section in enumerate(data["sources"].values()):
        for place in ("serve", "images"):
            section.pop(place, None)
        section |= {"base_url": "http://a.test"} if number else {"images": str(tmp_path)}
    stages = FetchBySource(configs_of(data)).stages
    classes = {name: type(stage) for name, stage in stages.items()}
    assert classes == {
        name: Fetch if "images" in section else Img2datasetFetch for name, section in data["sources"].items()
    }
    assert {Fetch, Img2datasetFetch} == set(classes.values())
