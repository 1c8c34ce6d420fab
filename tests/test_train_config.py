from dataclasses import fields
from pathlib import Path

import pytest

import train.configs
from encoders.errors import MedretError
from train.config import TrainConfig, dump_config, load_config, parse_settings, ready_configurations


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_changes_the_defaults_and_what_is_given_beside_it_changes_the_file(tmp_path):
    path = written(tmp_path, 'batch_size = 16\nlearning_rate = 3e-4\ncrop = [0.5, 1]\ntext_sample = "report"\n')

    config = load_config(path, batch_size=8, seed=None)

    assert (config.batch_size, config.learning_rate, config.crop, config.text_sample) == (8, 3e-4, (0.5, 1.0), "report")
    assert config.seed == TrainConfig().seed


def test_settings_survive_being_written_and_read_back(tmp_path):
    given = {"image": 'a "quoted" \\ folder é', "crop": (0.3, 0.9), "rotation": 7, "weight_decay": 1e-6, "max_steps": 12}
    config = load_config(None, **given, findings=["Edema", "Pleural Effusion"], compile=True, learn_temperature=False)

    assert load_config(written(tmp_path, dump_config(config))) == config


def test_the_published_configuration_holds_the_papers_settings():
    config = load_config(Path("convirt-published"))

    published = {
        "temperature": 0.1,
        "image_to_text_weight": 0.75,
        "image": "resnet50",
        "text": "bert-base",
        "text_pooling": "max",
        "dimension": 512,
        "head": "nonlinear",
        "size": 224,
        "cache_size": 256,
        "freeze_text_layers": 6,
        "text_sample": "sentence",
        "min_tokens": 3,
        "crop": (0.6, 1.0),
        "flip_probability": 0.5,
        "rotation": 20.0,
        "translation": 0.1,
        "scale": (0.95, 1.05),
        "brightness": (0.6, 1.4),
        "contrast": (0.6, 1.4),
        "blur_sigma": (0.1, 3.0),
        "batch_size": 32,
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "pretrained_learning_rate": 1e-4,
        "weight_decay": 1e-6,
        "schedule": "plateau",
        "plateau_factor": 0.5,
        "plateau_patience": 5,
        "validate_every": 5000,
        "max_steps": 1_000_000,
    }
    assert {key: getattr(config, key) for key in published} == published
    assert "convirt-published" in ready_configurations()


def test_the_configuration_of_medclip_holds_what_its_code_and_example_run_say():
    config = load_config(Path("medclip-published"))

    published = {
        "objective": "medclip",
        "temperature": 0.07,
        "learn_temperature": True,
        "label_similarity": "cosine",
        "soft_target_temperature": 1.0,
        "uncertain": "zeros",
        "image": "swin-tiny",
        "text_pooling": "layers",
        "dimension": 512,
        "head": "linear",
        "max_tokens": 77,
        "min_tokens": 5,
        "text_sample": "sentence",
        "crop": ((224 / 256) ** 2, (224 / 256) ** 2),
        "flip_probability": 0.5,
        "rotation": 10.0,
        "translation": 0.0625,
        "scale": (0.8, 1.1),
        "brightness": (0.8, 1.2),
        "contrast": (0.8, 1.2),
        "batch_size": 100,
        "epochs": 10,
        "warmup_fraction": 0.1,
        "learning_rate": 2e-5,
        "pretrained_learning_rate": 2e-5,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "gradient_clip": 1.0,
    }
    assert {key: getattr(config, key) for key in published} == published


def test_the_configuration_of_umcl_has_unicls_targets_and_coops_prompts_and_says_that_its_own_are_unknown():
    config = load_config(Path("umcl-published"))

    inferred = {"relation": "equal", "prompts": "continuous", "prompt_length": 16, "prompt_context": "shared", "prompt_position": "end"}
    assert {key: getattr(config, key) for key in inferred} == inferred
    text = (Path(train.configs.__file__).parent / "umcl-published.toml").read_text(encoding="utf-8")
    assert "NOTHING OF ITS SETTINGS IS KNOWN" in text
    assert ready_configurations() == ["convirt-published", "medclip-published", "umcl-published"]


def test_a_bare_run_does_not_flip_films_and_stops_early():
    config = load_config()

    assert config.flip_probability == 0
    assert config.validate_every == 0
    assert config.patience > 0


def test_an_unknown_key_is_refused_with_the_nearest_and_the_list_of_known_ones(tmp_path):
    path = written(tmp_path, "learning_rte = 1e-3\n")

    with pytest.raises(MedretError) as error:
        load_config(path)

    message = str(error.value)
    assert str(path) in message
    assert "Did you mean learning_rate?" in message
    assert all(field.name in message for field in fields(TrainConfig))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("batch_size = 1.5", "a whole number"),
        ("batch_size = true", "a whole number"),
        ('learning_rate = "fast"', "a number"),
        ("learning_rate = nan", "a number"),
        ("learning_rate = inf", "a number"),
        ("learning_rate = true", "a number"),
        ("image = 3", "a text in quotes"),
        ("compile = 1", "true or false"),
        ('tensorboard = "yes"', "true or false"),
        ('findings = "Edema"', "texts in brackets"),
        ("findings = [1, 2]", "texts in brackets"),
        ("crop = 0.5", "2 numbers"),
        ("crop = [0.5, 0.7, 0.9]", "2 numbers"),
        ('crop = ["a", "b"]', "a number"),
        ("[crop]\nlow = 0.5", "2 numbers"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_file_and_key(tmp_path, line, expected):
    path = written(tmp_path, line)

    with pytest.raises(MedretError, match=f"expected {expected}") as error:
        load_config(path)

    assert str(path) in str(error.value)
    assert line.strip("[").split(" ")[0].split("]")[0] in str(error.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"objective": "clip"},
        {"temperature": 0.0},
        {"image_to_text_weight": 1.5},
        {"batch_size": 1},
        {"epochs": 0},
        {"crop": (0.9, 0.6)},
        {"crop": (0.0, 1.0)},
        {"crop": (0.5, 1.5)},
        {"schedule": "linear"},
        {"plateau_factor": 2.0},
        {"learning_rate": 0.0},
        {"seed": -1},
        {"precision": "fp16"},
        {"size": 8},
        {"rotation": 200.0},
        {"scale": (0.0, 1.0)},
        {"best_by": "luck"},
        {"relation": "same"},
        {"uncertain": "maybe"},
        {"chunk_size": -1},
        {"soft_target_temperature": 0.0},
        {"temperature": 2.0, "objective": "medclip"},
        {"temperature": 0.001, "objective": "umcl"},
        {"findings": ("Edema", "Edema")},
        {"prompts": "continuous", "objective": "medclip"},
        {"learn": "prompts", "objective": "umcl", "prompts": "continuous"},
        {"learn": "prompts", "objective": "umcl", "start": "a/checkpoint"},
    ],
)
def test_a_value_out_of_range_is_refused_by_its_key(wrong):
    with pytest.raises(MedretError, match=next(iter(wrong))):
        load_config(None, **wrong)


def test_a_finding_that_nobody_knows_is_refused_with_the_nearest():
    with pytest.raises(MedretError, match=r"'Efusion' is no label\. Did you mean Pleural Effusion\? Known are: No Finding, "):
        load_config(None, findings=["Edema", "Efusion"])


def test_a_file_that_is_no_toml_or_is_missing_ends_in_one_line(tmp_path):
    for path in (written(tmp_path, "batch_size: 3\n"), tmp_path / "missing.toml"):
        with pytest.raises(MedretError, match=path.name) as error:
            load_config(path)
        assert "\n" not in str(error.value)


def test_reading_the_configuration_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, train.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_settings_of_a_command_line_are_read_as_in_toml_and_words_need_no_quotes():
    given = ["batch_size=16", "crop = [0.5, 1]", "text_sample=report", 'image="a b"', "learning_rate=1e-3", "text=/a/folder"]

    assert parse_settings(given) == {
        "batch_size": 16,
        "crop": [0.5, 1],
        "text_sample": "report",
        "image": "a b",
        "learning_rate": 1e-3,
        "text": "/a/folder",
    }
    with pytest.raises(MedretError, match="KEY=VALUE"):
        parse_settings(["batch_size"])
