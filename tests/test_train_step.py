import copy

import numpy as np
import pytest
import torch
from torch import nn

from encoders.dual import DualEncoder, build_encoder
from encoders.errors import MedretError
from encoders.prompt import PromptConfig
from train.batches import Batch
from train.config import load_config
from train.distributed import SOLO, Group
from train.parameters import build_optimizer, place_encoder, prepare_encoder
from train.step import Learner

FINDINGS = ("Edema", "Fracture", "Pneumonia")
TEXTS = [
    "edema of both lungs",
    "a broken rib",
    "the lungs are clear",
    "pneumonia",
    "edema and pneumonia",
    "a large heart",
    "no rib is broken",
]
FILMS = torch.from_numpy(np.random.default_rng(0).integers(0, 255, (6, 36, 36), dtype=np.uint8))


def small_encoder(prompts: bool = False) -> DualEncoder:
    """Without dropout, which differs from chunk to chunk."""
    encoder = build_encoder(texts=TEXTS, size=32, dimension=8)
    if prompts:
        encoder.add_prompts(PromptConfig(names=FINDINGS, length=2))
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return encoder


def small_batch(prompts: bool = False) -> Batch:
    """Six images and seven texts, the first three of which are partners."""
    rng = np.random.default_rng(1)
    labels = (rng.random((7, 3)) < 0.5).astype(np.float32)
    columns = 7 + 3 * prompts
    return Batch(
        step=4,
        rows=np.arange(6),
        texts=tuple(TEXTS),
        image_labels=labels[:6],
        text_labels=np.concatenate([labels, np.eye(3 * prompts, 3, dtype=np.float32)]),
        partners=np.eye(6, columns, dtype=bool) & (np.arange(columns) < 3),
        prompts=FINDINGS if prompts else (),
    )


def learner_of(encoder: DualEncoder, **changes: object) -> Learner:
    config = load_config(None, **{"objective": "umcl", "batchnorm": "running", "optimizer": "adam", "text": "tiny", **changes})
    prepare_encoder(encoder, config)
    place_encoder(encoder, config, SOLO)
    learner = Learner(encoder, config, SOLO)
    learner.begin()
    return learner


@pytest.mark.parametrize("changes", [{}, {"objective": "medclip", "gradient_clip": 0.1}, {"prompts": "continuous"}])
@pytest.mark.parametrize("chunk_size", [1, 4, 100])
def test_a_step_in_chunks_is_the_step_of_the_whole_batch(chunk_size, changes):
    prompts = "prompts" in changes
    encoder, batch = small_encoder(prompts), small_batch(prompts)
    whole, chunked = learner_of(copy.deepcopy(encoder), **changes), learner_of(encoder, chunk_size=chunk_size, **changes)
    for learner in (whole, chunked):
        learner.optimizer = torch.optim.SGD(learner.model.parameters(), lr=1.0)  # Adam makes much of a rounding error
        learner.optimizer.param_groups[0]["full_lr"] = 1.0

    losses = [learner.step(batch, FILMS, 1.0) for learner in (whole, chunked)]

    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    expected, moved = dict(whole.model.named_parameters()), dict(chunked.model.named_parameters())
    for name, parameter in moved.items():
        torch.testing.assert_close(parameter, expected[name], atol=2e-5, rtol=1e-4, msg=name)
    assert whole.objective.temperature != pytest.approx(0.1, rel=1e-6)


def test_the_temperature_stays_within_its_bounds_whatever_the_rate():
    learner = learner_of(small_encoder(), learning_rate=1e3)

    learner.step(small_batch(), FILMS, 1.0)

    assert learner.objective.temperature in (pytest.approx(0.01), pytest.approx(1.0))


def test_a_fixed_temperature_is_no_parameter():
    learner = learner_of(small_encoder(), learn_temperature=False)

    learner.step(small_batch(), FILMS, 1.0)

    assert learner.objective.temperature == 0.1
    assert not list(learner.objective.parameters())


def test_where_prompts_alone_learn_nothing_else_moves_not_even_statistics(tmp_path):
    encoder = small_encoder(prompts=True)
    before = copy.deepcopy(encoder.state_dict())
    learner = learner_of(encoder, prompts="continuous", learn="prompts", start=str(tmp_path), batchnorm="live", chunk_size=2)

    learner.step(small_batch(prompts=True), FILMS, 1.0)

    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"prompts.context"}


def test_a_temperature_and_prompts_never_decay_and_what_comes_from_a_checkpoint_has_its_own_rate(tmp_path):
    encoder = small_encoder(prompts=True)
    learner = learner_of(
        encoder, prompts="continuous", start=str(tmp_path), weight_decay=0.1, learning_rate=1e-3, pretrained_learning_rate=1e-5
    )
    for optimizer in ("adam", "adamw"):
        config = load_config(
            None,
            **{
                **{name: getattr(learner.config, name) for name in ("objective", "prompts", "start", "weight_decay")},
                "optimizer": optimizer,
            },
        )
        groups = build_optimizer(encoder, learner.objective, config).param_groups
        settings = {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}

        assert encoder.prompts is not None and learner.objective.learned is not None
        assert settings[id(encoder.prompts.context)] == settings[id(learner.objective.learned.log_scale)] == (1e-3, 0.0)
        assert settings[id(encoder.image_head[0].weight)] == (1e-4, 0.1)


def test_live_statistics_of_chunks_over_several_gpus_are_refused():
    group = Group(rank=0, size=2, device=torch.device("cuda"))
    config = load_config(None, chunk_size=8)
    encoder = small_encoder()
    encoder.to = lambda device: encoder  # type: ignore[method-assign]  # there may be no GPU here

    with pytest.raises(MedretError, match=r"batchnorm is live .*chunk_size 8.*batchnorm = 'running'"):
        place_encoder(encoder, config, group)


def test_live_statistics_over_several_gpus_wait_for_no_process_without_images():
    """Of 6 images and 8 processes the first has none."""
    encoder, config = small_encoder(), load_config(None, objective="umcl")
    nn.SyncBatchNorm.convert_sync_batchnorm(encoder)
    learner = Learner(encoder, config, Group(rank=0, size=8))

    with pytest.raises(MedretError, match=r"a batch of 6 images leaves none to process 0 of 8.*Raise batch_size"):
        learner.step(small_batch(), FILMS[:0], 1.0)


def test_a_gradient_that_is_not_finite_ends_the_run_though_the_loss_is(tmp_path):
    encoder = small_encoder()
    learner = learner_of(encoder, gradient_clip=0.0)
    next(encoder.text_head.parameters()).register_hook(lambda gradient: gradient * float("inf"))

    with pytest.raises(MedretError, match=r"the gradient's norm of step 5 is (inf|nan) at learning rate .*expected a finite number"):
        learner.step(small_batch(), FILMS, 1.0)


@pytest.mark.parametrize(("chunk_size", "batchnorm"), [(5, "running"), (4, "live")])
def test_chunks_of_more_than_one_image_or_without_live_batchnorm_are_learned_from(chunk_size, batchnorm):
    assert np.isfinite(learner_of(small_encoder(), chunk_size=chunk_size, batchnorm=batchnorm).step(small_batch(), FILMS, 1.0))


def test_live_batchnorm_is_not_asked_for_the_statistics_of_one_image():
    learner = learner_of(small_encoder(), chunk_size=5, batchnorm="live")

    with pytest.raises(MedretError, match="a batch of 6 images in chunks of 5 leaves one of a single image"):
        learner.step(small_batch(), FILMS, 1.0)
