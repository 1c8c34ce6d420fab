import numpy as np
import pytest
import torch
from torch.nn import functional as F

from encoders.dual import build_encoder
from encoders.huggingface import IMAGE_FAMILIES
from encoders.preprocess import Preprocessing
from encoders.similarity_map import similarity_map

TEXTS = ["small left effusion", "large right pneumothorax"]
SMALL = {  # of other kinds, at 128 pixels
    "vit": {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 128,
        "patch_size": 8,
    },
    "swin": {"embed_dim": 16, "depths": [1, 1, 1], "num_heads": [1, 2, 2], "window_size": 4, "image_size": 128, "patch_size": 4},
    "convnext": {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]},
}
BLOBS = [(40, 88), (88, 40), (64, 64)]  # row and column of its middle


def film_with(blob: tuple[int, int] | None, size: int = 128) -> torch.Tensor:
    film = torch.full((size, size), 90, dtype=torch.uint8)
    if blob is not None:
        row, column = (round(place * size / 128) for place in blob)
        half = size // 12
        film[row - half : row + half, column - half : column + half] = 220
    return film


@pytest.mark.parametrize("kind", ["tiny", "efficientnet-lite0", *SMALL])
def test_the_peak_lies_on_what_makes_a_film_like_the_query(tmp_path, kind):
    """The query is the difference that a bright square makes, so nothing else in the film can raise the similarity."""
    image = kind
    if kind in SMALL:
        family, image = IMAGE_FAMILIES[kind], tmp_path
        torch.manual_seed(0)
        family.model_class(family.make_config(SMALL[kind])).save_pretrained(tmp_path)
    encoder = build_encoder(image, "tiny", TEXTS, size=128, dimension=32).eval()
    found = []
    for blob in BLOBS:
        with torch.inference_mode():
            plain, marked = encoder.encode_images(torch.stack([film_with(None), film_with(blob)])).joint
        seen = similarity_map(encoder, film_with(blob), F.normalize(marked - plain, dim=0))
        assert seen.max() == 1
        row, column = divmod(int(seen.argmax()), 128)
        found.append(max(abs(row - blob[0]), abs(column - blob[1])))
    assert max(found) <= 128 / 12 + 4  # the square, and half a cell of the coarser map


def test_a_network_of_one_stage_has_a_map(tmp_path):
    family = IMAGE_FAMILIES["vit"]
    family.model_class(family.make_config(SMALL["vit"] | {"num_hidden_layers": 1})).save_pretrained(tmp_path)
    encoder = build_encoder(tmp_path, "tiny", TEXTS, size=128, dimension=8).eval()

    assert similarity_map(encoder, film_with(BLOBS[0]), F.normalize(torch.ones(8), dim=0)).shape == (128, 128)


def test_a_map_leaves_the_encoder_as_it_was():
    encoder = build_encoder("tiny", "tiny", TEXTS, size=64, dimension=8).eval()
    film = film_with(BLOBS[0], 64)
    with torch.inference_mode():
        before = encoder.encode_images(film[None]).joint

    similarity_map(encoder, film, before[0])  # made in inference mode, as an engine makes them

    with torch.inference_mode():
        assert torch.equal(encoder.encode_images(film[None]).joint, before)
    assert not any(module._forward_hooks for module in encoder.modules())
    assert all(weight.grad is None for weight in encoder.parameters())


@pytest.mark.parametrize("fit", ["pad", "squash", "crop"])
def test_a_square_is_laid_over_the_film_where_it_was_cut_from(fit):
    """Levels that rise along the film come back at their places; a crop leaves out what it has not seen."""
    across = np.tile(np.linspace(0, 255, 120).astype(np.uint8), (80, 1))
    preprocessing = Preprocessing(size=64, fit=fit)

    back = preprocessing.unsquare(preprocessing.square(across).astype(np.float32), 120, 80)

    assert back.shape == (80, 120)
    seen = slice(24, 96) if fit == "crop" else slice(4, 116)  # what bends at the edges left out
    np.testing.assert_allclose(back[4:76, seen], across[4:76, seen].astype(np.float32), atol=4)
    assert fit != "crop" or not back[:, :20].any()
