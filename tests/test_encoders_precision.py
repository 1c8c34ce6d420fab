import numpy as np
import pytest
import torch

from encoders.checkpoint import default_checkpoint, load_checkpoint
from encoders.precision import AGREEMENT, agreement, computing, has_bfloat16
from index.corpora.phantom import write_phantoms
from index.corpora.readers import open_corpus
from index.corpora.report import REPORT_SECTIONS, report_text

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "corpus"
    write_phantoms(folder, 30, 0)
    return list(open_corpus(folder).records())


@pytest.fixture(scope="module")
def encoder():
    return load_checkpoint(default_checkpoint()).eval()


def overlap(one, other):
    """The mean share of the 10 nearest neighbours, itself left out, that two sets of vectors agree on."""
    nearest = []
    for vectors in (one, other):
        scores = vectors @ vectors.T
        scores.fill_diagonal_(-2)
        nearest.append(scores.topk(10).indices.tolist())
    return float(np.mean([len(set(mine) & set(theirs)) / 10 for mine, theirs in zip(*nearest, strict=True)]))


def test_reports_keep_their_vectors_and_neighbours_in_bfloat16(encoder, records):
    texts = sorted({report_text(record.sections, REPORT_SECTIONS) for record in records} - {""})
    made = []
    for precision in ("float32", "bfloat16"):
        with computing(CPU, precision):
            made.append(torch.cat([encoder.encode_texts(texts[start : start + 16]).joint for start in range(0, len(texts), 16)]))

    assert made[1].dtype == torch.float32
    torch.testing.assert_close(made[1].norm(dim=1), torch.ones(len(texts)))
    assert not torch.equal(*made)
    assert (made[0] * made[1]).sum(dim=1).min() > AGREEMENT
    assert overlap(*made) >= 0.98


def test_agreement_is_the_lowest_cosine_of_both_vectors(encoder, records):
    films = torch.from_numpy(np.stack([encoder.config.preprocessing.read_square(record.image) for record in records[:8]]))
    with computing(CPU, "float32"):
        exact = encoder.encode_images(films)
    with computing(CPU, "bfloat16"):
        rounded = encoder.encode_images(films)
    cosines = [float(one @ other) for before, after in zip(exact, rounded, strict=True) for one, other in zip(before, after, strict=True)]

    assert agreement(lambda: encoder.encode_images(films), CPU) == pytest.approx(min(cosines), abs=1e-6)
    assert min(cosines) < AGREEMENT  # EfficientNet loses too much: "auto" leaves it in float32


@pytest.mark.parametrize(("flags", "has"), [("flags: fpu avx512f avx512_bf16", True), ("flags: avx512f avx512_vnni", False), (None, False)])
def test_the_cpu_says_whether_it_has_bfloat16(tmp_path, monkeypatch, flags, has):
    monkeypatch.setattr("encoders.precision._CPU", tmp_path / "cpuinfo")
    if flags is not None:
        (tmp_path / "cpuinfo").write_text(flags)

    assert has_bfloat16(CPU) == has


def test_an_unknown_precision_is_a_wrong_call():
    with pytest.raises(ValueError, match="expected one of float32, bfloat16"), computing(CPU, "float16"):
        pass
