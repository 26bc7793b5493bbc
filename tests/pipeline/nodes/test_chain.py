"""The fetch stage of a chain: settings by source, the web shared, the rate divided."""

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


def test_sources_of_equal_manners_share_what_is_known_of_hosts():
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


def test_our_own_server_needs_no_manners_and_lists_have_one_place(tmp_path, monkeypatch):
    data = tiny_data(tmp_path)
    data["fetch"]["blocked"] = ["list.txt", "s3://bucket/list.txt"]
    served = next(name for name, section in data["sources"].items() if "serve" in section)
    (tmp_path / "served").mkdir()
    data["sources"][served]["serve"] = str(tmp_path / "served")
    monkeypatch.chdir(tmp_path)
    config = parse_config(data, "test")
    with ExitStack() as stack:
        configs = fetch_configs(config, tuple(config.sources), stack)
    assert (configs[served].robots, configs[served].per_host_per_second) == (False, None)
    others = [each for name, each in configs.items() if name != served]
    assert others and all(each.robots and each.per_host_per_second for each in others)
    assert configs[served].blocked == (str(tmp_path / "list.txt"), "s3://bucket/list.txt")


def test_img2dataset_asks_for_urls_and_never_reads_folders(tmp_path):
    data = tiny_data(tmp_path)
    data["fetch"] = {"backend": "img2dataset", "robots": False, "per_host_per_second": None}
    for number, section in enumerate(data["sources"].values()):
        for place in ("serve", "images"):
            section.pop(place, None)
        section |= {"base_url": "http://a.test"} if number else {"images": str(tmp_path)}
    config = parse_config(data, "test")
    with ExitStack() as stack:
        stages = FetchBySource(fetch_configs(config, tuple(config.sources), stack)).stages
    kinds = {name: type(stage) for name, stage in stages.items()}
    assert kinds == {
        name: Fetch if section.images is not None else Img2datasetFetch
        for name, section in config.sources.items()
    }
    assert {Fetch, Img2datasetFetch} == set(kinds.values())
