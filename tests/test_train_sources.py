from pathlib import Path

import pytest

from encoders.errors import MedretError
from train.config import dump_config, load_config
from train.sources import CorpusSource, describe_source, dump_sources, load_sources


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def table_corpus(folder: Path) -> Path:
    path = folder / "t.csv"
    path.write_text("picture,words\n1.png,Heart large.\n", encoding="utf-8")
    return path


def test_a_file_names_settings_and_corpora_side_by_side(tmp_path):
    path = written(
        tmp_path, 'batch_size = 16\n\n[[corpus]]\npath = "a"\n\n[[corpus]]\npath = "b"\nweight = 2\ncolumns = { path = "file" }\n'
    )

    assert load_config(path).batch_size == 16
    assert load_sources(path) == (CorpusSource(path="a"), CorpusSource(path="b", weight=2.0, columns={"path": "file"}))
    assert load_sources(Path("convirt-published")) == ()


def test_corpora_survive_being_written_after_the_settings_and_read_back(tmp_path):
    config = load_config(None, batch_size=7)
    sources = (
        CorpusSource(path='/a "quoted" \\ folder é', weight=0.25, format="mimic-cxr-jpg", reports="/elsewhere", labels="negbio"),
        CorpusSource(path="t.csv", columns={"path": "the file", "text": 'wörds "here"'}),
    )
    path = written(tmp_path, dump_config(config) + dump_sources(sources))

    assert load_sources(path) == sources
    assert load_config(path) == config


def test_a_corpus_that_was_opened_describes_itself_so_that_it_opens_again_from_anywhere(tmp_path, monkeypatch):
    table_corpus(tmp_path)
    monkeypatch.chdir(tmp_path)
    first = CorpusSource(path="t.csv", weight=3, columns={"path": "picture", "text": "words"})

    described = describe_source(first.open(), first.weight)
    here = list(first.open().records())
    monkeypatch.chdir("/")

    assert (described.weight, described.format) == (3, "table")
    assert list(described.open().records()) == here
    assert here[0].image == tmp_path / "1.png"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[[corpus]]\npth = "a"\n', "corpus 1: pth is no key of a corpus. Did you mean path?"),
        ("[[corpus]]\nweight = 1\n", "corpus 1: has no path"),
        ('[[corpus]]\npath = "a"\n[[corpus]]\npath = "b"\nweight = "much"\n', "corpus 2: weight is 'much', expected a number"),
        ('[[corpus]]\npath = "a"\nweight = -1\n', "weight is -1.0, expected 0 or more"),
        ('[[corpus]]\npath = ""\n', "path is empty"),
        ('[[corpus]]\npath = "a"\ncolumns = ["b"]\n', "expected names"),
        ('corpus = "a"\n', "expected one table for each corpus"),
        ('corpus = ["a"]\n', "expected one table for each corpus"),
    ],
)
def test_a_corpus_that_cannot_be_meant_is_refused_by_file_and_number(tmp_path, text, expected):
    path = written(tmp_path, text)

    with pytest.raises(MedretError) as error:
        load_sources(path)

    assert expected in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
