"""The image half of an encoder gives the vectors of the whole."""

import pytest
import torch

from encoders.checkpoint import load_checkpoint, save_checkpoint
from encoders.dual import build_encoder
from encoders.image_half import load_image_half

TEXTS = ["The heart is enlarged.", "No effusion is seen."]


@pytest.mark.parametrize(("head", "dtype"), [("nonlinear", "float32"), ("linear", "float16")])
@pytest.mark.parametrize("image", ["tiny", "efficientnet-lite0"])
def test_the_image_half_alone_encodes_films_as_the_whole_does(tmp_path, image, head, dtype):
    save_checkpoint(build_encoder(image, texts=TEXTS, size=32, dimension=8, head=head), tmp_path / "encoder", dtype=dtype)
    films = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        half = load_image_half(tmp_path / "encoder").encode_images(films)
        whole = load_checkpoint(tmp_path / "encoder").encode_images(films)

    torch.testing.assert_close(half.joint, whole.joint, rtol=0, atol=0)
    torch.testing.assert_close(half.features, whole.features, rtol=0, atol=0)
