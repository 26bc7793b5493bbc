"""ITC, ITM and LM against plain loops in float64; shared ids, resuming, shared keys and values."""

import copy

import pytest
import torch
from torch import Tensor

from capfilt.models.config import ObjectiveConfig
from capfilt.models.images.pixels import normalize
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.training.objectives import Objective
from tests.models.training.objective_cases import (
    IMAGE_IDS,
    TEXTS,
    MatchSpy,
    in_batch,
    loop_contrast,
    loop_cross_entropy,
    loop_targets,
    make_batch,
    make_med,
    make_tokenizer,
)

CLOSE = {"rel": 2e-5, "abs": 2e-5}  # features are float32
PAIRS = list(zip(IMAGE_IDS, TEXTS, strict=True))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer()


@pytest.fixture
def med(tokenizer: Tokenizer) -> MED:
    return make_med(tokenizer)


def features(med: MED, tokenizer: Tokenizer, batch: dict) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        image = med.image_feature(med.encode_image(normalize(batch["pixels"])))
        text = med.text_feature(*tokenizer.encode(batch["texts"], 30, first="cls"))
    return image.double(), text.double()


# ---- contrast


@pytest.mark.parametrize("rule", ["ids", "pairs"])
def test_itc_in_batch_equals_loops_with_shared_images_and_texts(
    med: MED, tokenizer: Tokenizer, rule: str
) -> None:
    batch = make_batch()
    got = Objective(med, tokenizer, in_batch(losses=("itc",), positives=rule))(batch)
    image, text = features(med, tokenizer, batch)
    identities = PAIRS if rule == "ids" else [(i, str(i)) for i in range(len(PAIRS))]
    targets = loop_targets(identities, identities)
    expected = (loop_contrast(image, text, targets, 0.07) + loop_contrast(text, image, targets, 0.07)) / 2
    assert got["itc"].item() == pytest.approx(expected, **CLOSE)
    assert got["loss"].item() == pytest.approx(expected, **CLOSE)


def test_itc_with_momentum_equals_loops_over_a_wrapping_queue_and_a_ramp(
    med: MED, tokenizer: Tokenizer
) -> None:
    config = ObjectiveConfig(losses=("itc",), queue_size=7, momentum=0.8, alpha_ramp_epochs=2.0)
    objective = Objective(med, tokenizer, config).train()
    optimizer = torch.optim.SGD(med.parameters(), lr=0.02)
    teacher = copy.deepcopy(med)
    queue: list[tuple[Tensor, Tensor, tuple[int, str]]] = [None] * 7  # type: ignore[list-item]
    pushed = 0
    orders = ([0, 1, 2, 3], [4, 5, 0], [2, 3, 1, 5, 4], [0, 1], [5, 4, 3, 2, 1, 0])
    for step, order in enumerate(
        orders
    ):  # 4 + 3 pairs fill the queue, 5 and 2 wrap around, 6 wrap around again
        pairs = [PAIRS[i] for i in order]
        batch = make_batch(tuple(t for _, t in pairs), tuple(i for i, _ in pairs), seed=step)
        queued = [entry for entry in queue if entry is not None]
        image, text = features(med, tokenizer, batch)
        slow_image, slow_text = features(teacher, tokenizer, batch)
        all_image = torch.stack([*slow_image, *(entry[0] for entry in queued)])
        all_text = torch.stack([*slow_text, *(entry[1] for entry in queued)])
        candidates = pairs + [entry[2] for entry in queued]
        temperature = min(max(med.temp.item(), 0.001), 0.5)
        alpha = 0.4 * min(1.0, step / 3 / 2)
        to_text = loop_targets(pairs, candidates, (slow_image, all_text), alpha, temperature)
        to_image = loop_targets(pairs, candidates, (slow_text, all_image), alpha, temperature)
        expected = (
            loop_contrast(image, all_text, to_text, temperature)
            + loop_contrast(text, all_image, to_image, temperature)
        ) / 2

        got = objective(batch, epoch=step / 3)
        assert got["itc"].item() == pytest.approx(expected, **CLOSE), step

        optimizer.zero_grad()
        got["loss"].backward()
        optimizer.step()
        objective.update_momentum()
        for entry in zip(slow_image, slow_text, pairs, strict=True):
            queue[pushed % 7] = entry
            pushed += 1
        with torch.no_grad():
            for slow, fast in zip(teacher.parameters(), med.parameters(), strict=True):
                slow.copy_(0.8 * slow + 0.2 * fast)


def test_of_a_batch_larger_than_the_queue_the_last_pairs_are_kept(med: MED, tokenizer: Tokenizer) -> None:
    objective = Objective(med, tokenizer, ObjectiveConfig(losses=("itc",), queue_size=4)).train()
    batch = make_batch()
    objective(batch)
    image, _ = features(med, tokenizer, batch)
    assert objective.queue is not None
    queued = objective.queue.read()
    # Pairs 4 and 5 overwrote slots 0 and 1.
    assert queued.image_ids_B.tolist() == [13, 15, 12, 13]
    assert torch.allclose(queued.image_BE.double(), image[[4, 5, 2, 3]], atol=1e-6)


def test_the_momentum_encoder_changes_only_by_update_and_gets_no_gradient(
    med: MED, tokenizer: Tokenizer
) -> None:
    objective = Objective(
        med, tokenizer, ObjectiveConfig(losses=("itc",), queue_size=8, momentum=0.9)
    ).train()
    assert objective.teacher is not None
    before = {name: p.clone() for name, p in objective.teacher.named_parameters()}
    objective(make_batch())["loss"].backward()
    assert all(p.grad is None for p in objective.teacher.parameters())
    with torch.no_grad():
        for parameter in med.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(p, before[name]) for name, p in objective.teacher.named_parameters())
    objective.update_momentum()
    for name, parameter in objective.teacher.named_parameters():
        torch.testing.assert_close(parameter, before[name] + 0.1, msg=name)
    assert not any("crossattention" in name or "decoder" in name for name in before)


@pytest.mark.parametrize(("start", "clamped"), [(3.0, 0.5), (1e-6, 0.001), (0.2, 0.2)])
def test_the_temperature_is_clamped(med: MED, tokenizer: Tokenizer, start: float, clamped: float) -> None:
    med.temp.data.fill_(start)
    got = Objective(med, tokenizer, in_batch(losses=("itc",)))(make_batch())
    assert got["temperature"].item() == pytest.approx(clamped)
    assert med.temp.item() == pytest.approx(clamped)


# ---- matching


def test_itm_equals_loops_over_single_pairs(med: MED, tokenizer: Tokenizer) -> None:
    batch = make_batch()
    spy = MatchSpy(med)
    got = Objective(med, tokenizer, in_batch(losses=("itm",)), seed=5)(batch)
    [(ids, mask, image_index)] = spy.calls
    assert ids[:, 0].tolist() == [tokenizer.enc_id] * 18
    texts = tokenizer.decode_batch([row[keep.bool()] for row, keep in zip(ids, mask, strict=True)])
    assert texts[:6] == texts[6:12] == list(TEXTS)
    assert image_index[:6].tolist() == image_index[12:].tolist() == list(range(6))
    losses, correct = [], 0
    with torch.no_grad():
        for row, text in enumerate(texts):
            image = int(image_index[row])
            states = med.encode_image(normalize(batch["pixels"][image : image + 1]))
            one_ids, one_mask = tokenizer.encode([text], 30, first="enc")
            logits = spy.inner(one_ids, one_mask, med.cross_kv(states, "encoder"), None)[0].double().tolist()
            losses.append(loop_cross_entropy(logits, int(row < 6)))
            correct += (logits[1] > logits[0]) == (row < 6)
    assert got["itm"].item() == pytest.approx(sum(losses) / 18, **CLOSE)
    assert got["itm_accuracy"].item() == pytest.approx(correct / 18)


@pytest.mark.parametrize(("prompt", "prompt_length"), [("", 1), ("a picture of ", 4)])
def test_lm_equals_loops_with_smoothing_without_prompt_and_padding(
    med: MED, tokenizer: Tokenizer, prompt: str, prompt_length: int
) -> None:
    batch = make_batch()
    got = Objective(med, tokenizer, in_batch(losses=("lm",), prompt=prompt))(batch)
    losses = []
    with torch.no_grad():
        kv = med.cross_kv(med.encode_image(normalize(batch["pixels"])), "decoder")
        for row, text in enumerate(TEXTS):
            ids, _ = tokenizer.encode([prompt + text], 30, first="dec")
            assert tokenizer.decode(ids[0, :prompt_length]) == prompt.strip()
            logits = med.decode(ids, [(key[row : row + 1], value[row : row + 1]) for key, value in kv])
            for position in range(prompt_length, ids.shape[1]):
                before = logits[0, position - 1].double().tolist()
                losses.append(loop_cross_entropy(before, int(ids[0, position]), smoothing=0.1))
    assert got["lm"].item() == pytest.approx(sum(losses) / len(losses), **CLOSE)


def test_texts_are_normalized_and_cut_as_in_the_reference(med: MED, tokenizer: Tokenizer) -> None:
    objective = Objective(med, tokenizer, in_batch(max_words=3)).eval()
    normalized = objective(make_batch(("two dogs on", "a cat"), (1, 2)))
    raw = objective(make_batch(("  Two DOGS! (on) a beach", "a cat."), (1, 2)))
    assert {name: value.item() for name, value in normalized.items()} == {
        name: value.item() for name, value in raw.items()
    }


# ---- all losses


@pytest.mark.parametrize("sharing", ["all_but_sa", "all_but_ca", "all", "none"])
def test_gradients_of_a_joint_step_equal_those_of_separate_steps(tokenizer: Tokenizer, sharing: str) -> None:
    """Sharing image states, keys and values between the losses does not change the gradients."""
    together = make_med(tokenizer, sharing=sharing)
    Objective(together, tokenizer, in_batch())(make_batch())["loss"].backward()
    separate = make_med(tokenizer, sharing=sharing)
    for loss in ("itc", "itm", "lm"):
        changes = {"alpha": 0.0} if loss == "itc" else {}
        Objective(separate, tokenizer, in_batch(losses=(loss,), **changes))(make_batch())["loss"].backward()
    for (name, joint), expected in zip(together.named_parameters(), separate.parameters(), strict=True):
        torch.testing.assert_close(joint.grad, expected.grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("losses", [("lm",), ("itc", "itm")])
def test_captioner_and_filter_train_all_their_parameters(tokenizer: Tokenizer, losses: tuple) -> None:
    med = make_med(tokenizer, parts="captioner" if losses == ("lm",) else "filter")
    Objective(med, tokenizer, in_batch(losses=losses))(make_batch())["loss"].backward()
    assert all(parameter.grad is not None for parameter in med.parameters())


def test_a_resumed_objective_continues_exactly(tokenizer: Tokenizer) -> None:
    config = ObjectiveConfig(queue_size=10)

    def advance(objective: Objective, steps: range) -> list[float]:
        optimizer = torch.optim.SGD(objective.med.parameters(), lr=0.05)
        values = []
        for step in steps:
            loss = objective.train()(make_batch(seed=step), epoch=step / 4)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            objective.update_momentum()
            values.append(loss.item())
        return values

    uninterrupted = Objective(make_med(tokenizer), tokenizer, config)
    expected = advance(uninterrupted, range(6))
    first = Objective(make_med(tokenizer), tokenizer, config)
    assert advance(first, range(3)) == expected[:3]
    second = Objective(make_med(tokenizer, seed=7), tokenizer, config)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert advance(second, range(3, 6)) == expected[3:]


def test_evaluation_does_not_change_queue_and_step(med: MED, tokenizer: Tokenizer) -> None:
    objective = Objective(med, tokenizer, ObjectiveConfig(queue_size=10)).eval()
    first = {name: value.item() for name, value in objective(make_batch()).items()}
    assert {name: value.item() for name, value in objective(make_batch()).items()} == first


def test_bfloat16_autocast_is_close_to_float32(med: MED, tokenizer: Tokenizer) -> None:
    objective = Objective(med, tokenizer, ObjectiveConfig(queue_size=10)).eval()
    exact = objective(make_batch())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = objective(make_batch())
    for name in ("itc", "lm"):  # ITM can draw other negatives
        assert rough[name].dtype == torch.float32
        assert rough[name].item() == pytest.approx(exact[name].item(), rel=0.1)


def test_a_tiny_med_overfits_64_pairs(tokenizer: Tokenizer) -> None:
    shapes = ("circle", "square", "star", "beach", "cat", "dogs", "orders", "shipping")
    colors = ("red", "blue", "green", "a", "the", "two", "free", "all")
    texts = tuple(f"{color} {shape}" for color in colors for shape in shapes)
    batch = make_batch(texts, tuple(range(64)))
    torch.manual_seed(0)
    med = make_med(tokenizer)
    config = in_batch(label_smoothing=0.0)
    objective = Objective(med, tokenizer, config).train()
    optimizer = torch.optim.AdamW(med.parameters(), lr=4e-3, weight_decay=0.0)
    for _step in range(250):
        got = objective(batch)
        optimizer.zero_grad()
        got["loss"].backward()
        optimizer.step()
        if got["lm"] < 0.01 and got["itm_accuracy"] == 1:
            break
    assert got["lm"].item() < 0.05
    assert got["itm_accuracy"].item() == 1.0


# ---- invalid configurations


def test_invalid_configurations_are_rejected(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"alpha 0.4 needs .* queue_size 0 .* set alpha to 0"):
        ObjectiveConfig(queue_size=0)
    with pytest.raises(ValueError, match=r"temp_min 0\.6 must be less than temp_max 0\.5"):
        ObjectiveConfig(temp_min=0.6)
    with pytest.raises(ValueError, match="contain a duplicate"):
        ObjectiveConfig(losses=("lm", "lm"))
    with pytest.raises(ValueError, match="'a picture of ' is used only by the loss lm"):
        ObjectiveConfig(losses=("itc",), prompt="a picture of ")
    with pytest.raises(ValueError, match='cannot train a "captioner"'):
        Objective(make_med(tokenizer, parts="captioner"), tokenizer, ObjectiveConfig())
    with pytest.raises(ValueError, match='cannot train a "filter"'):
        Objective(make_med(tokenizer, parts="filter"), tokenizer, ObjectiveConfig(losses=("lm",)))


def test_the_reference_preset_is_the_pretraining_of_the_released_code() -> None:
    code = ObjectiveConfig.reference(queue_size=96)
    assert (code.positives, code.contrast_all_workers, code.negative_floor) == ("pairs", False, 1e-4)
    assert (code.teacher_dropout, code.queue_size, code.alpha) == (True, 96, 0.4)
