"""What the live line of an evaluation says."""

from capfilt.pipeline.nodes.evaluate import describe_models


def test_each_model_has_its_step_or_waits():
    board = {"pretrain.0": "ranking 1,200 of 5,000 images", "at": 3.0, "notices": []}
    assert describe_models(["pretrain.0", "pretrain.1"], board) == (
        "pretrain.0 ranking 1,200 of 5,000 images, pretrain.1 waiting for a worker"
    )
