"""Every command through the installed `medret`, on a corpus of phantoms; faults end in one line and exit code 1."""

import csv
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from encoders.checkpoint import load_checkpoint, save_checkpoint
from encoders.prompt import PromptConfig
from index.corpora.phantom import write_phantoms
from retrieval import cli

MEDRET = Path(sys.executable).with_name("medret")


def medret(*arguments: object, cwd: Path | None = None, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(MEDRET), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)


def succeeds(*arguments: object, **how: Path) -> str:
    done = medret(*arguments, **how)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fails(*arguments: object, code: int = 1) -> str:
    done = medret(*arguments)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    faults = [line for line in done.stderr.splitlines() if line.startswith("medret: ")]
    assert len(faults) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return faults[0]


@dataclass(frozen=True)
class Made:
    """What the commands made, each from what the one before it made."""

    corpus: Path
    run: Path
    shards: Path
    index: Path

    @property
    def image(self) -> Path:
        return sorted(self.corpus.glob("files/p1*/p*/s*/*.jpg"))[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    home = tmp_path_factory.mktemp("medret")
    made = Made(home / "corpus", home / "run", home / "shards", home / "index")
    write_phantoms(made.corpus, 40, 1)
    succeeds("train", made.corpus, "--objective", "convirt", "--out", made.run, "--epochs", 1, "--batch-size", 16, "--set", "size=64")
    succeeds(
        "encode", made.corpus, "--encoder", made.run, "--out", made.shards, "--vectors", "joint,features", "--text-unit", "report,sentence"
    )
    succeeds("build-index", made.shards, "--out", made.index)
    return made


def test_help_names_every_command():
    out = succeeds("--help")

    for command in ("phantoms", "corpus", "train", "encode", "build-index", "query", "evaluate", "doctor"):
        assert re.search(rf"^\W*{command}\b", out, re.MULTILINE), command


def test_the_command_line_starts_without_the_heavy_libraries():
    heavy = "torch faiss transformers pyarrow numpy"
    code = f"import sys, retrieval.cli; retrieval.cli.build_app(); print([name for name in '{heavy}'.split() if name in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_phantoms_are_written_and_described_as_a_corpus(tmp_path):
    succeeds("phantoms", tmp_path / "corpus", "--patients", 5, "--seed", 3)

    summary = json.loads(succeeds("corpus", tmp_path / "corpus", "--json", "--check-images"))

    assert summary["format"] == "mimic-cxr-jpg"
    assert summary["patients"] == 5
    assert summary["images"] == len(list((tmp_path / "corpus").rglob("*.jpg")))


def test_training_leaves_checkpoints_metrics_and_a_picture(made):
    assert (made.run / "best" / "model.safetensors").is_file()
    assert (made.run / "last" / "model.safetensors").is_file()
    assert (made.run / "curves.png").read_bytes().startswith(b"\x89PNG")
    header, first = (made.run / "metrics.csv").read_text().splitlines()[:2]
    assert "mrr" in header.split(",")
    assert len(first.split(",")) == len(header.split(","))


def test_an_interrupted_run_ends_with_130_and_resumes_with_its_own_settings(made, tmp_path):
    command = [str(MEDRET), "train", str(made.corpus), "--out", str(tmp_path / "run"), "--epochs", "2", "--set", "size=64"]
    started = subprocess.Popen([*command, "--batch-size", "8"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert started.stderr is not None
    for line in started.stderr:
        if line.startswith("step "):  # its first validation
            started.send_signal(signal.SIGINT)
            break
    _, rest = started.communicate(timeout=120)

    assert started.returncode == 130, rest
    assert "--resume" in rest
    assert succeeds("train", made.corpus, "--out", tmp_path / "run", "--resume").startswith("finished")


def test_several_corpora_are_learned_from_by_weight_and_known_again_by_the_run(made, tmp_path):
    films = tmp_path / "films.csv"
    images = sorted(made.corpus.glob("files/p1*/p*/s*/*.jpg"))[:12]
    films.write_text("path,patient,Edema\n" + "".join(f"{path},p{number},{number % 2}\n" for number, path in enumerate(images)))
    small = ["--out", tmp_path / "run", "--set", "size=32", "--set", "max_steps=2", "--objective", "umcl", "--set", "findings=['Edema']"]

    trained = medret("train", made.corpus, films, "--weight", 3, "--weight", 1, *small)

    assert trained.returncode == 0, trained.stderr
    assert "2 (table): 6 no report" in trained.stderr
    assert re.search(r"finished after 2 steps, \d+\.\d% of the time waiting for data; best by mrr", trained.stdout)
    recorded = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["corpus"]
    assert recorded == [
        {"path": str(made.corpus), "weight": 3, "format": "mimic-cxr-jpg"},
        {"path": str(films), "weight": 1, "format": "table"},
    ]
    assert succeeds("train", "--out", tmp_path / "run", "--resume").startswith("finished after 2 steps")
    assert "other data" in fails("train", made.corpus, "--out", tmp_path / "run", "--resume")
    card = (tmp_path / "run" / "best" / "MODEL_CARD.md").read_text()
    assert "For research only" in card and str(tmp_path) not in card


def test_wrong_usage_of_train_says_what_to_give(made, tmp_path):
    run = ["--out", tmp_path / "run"]
    for arguments, expected in (
        ([], "no corpus: name one or several"),
        ([made.corpus, made.corpus, "--weight", 1], "--weight is given 1 times for 2 corpora"),
        ([made.corpus, made.corpus, "--format", "table"], "tell of one PATH"),
        ([made.corpus, "--resume", "--overwrite"], "give one of them"),
    ):
        done = medret("train", *arguments, *run)
        assert (done.returncode, expected in " ".join(done.stderr.replace("│", " ").split())) == (2, True), done.stderr
    assert not (tmp_path / "run").exists()


def test_a_text_query_answers_with_the_documented_fields(made):
    hits = json.loads(succeeds("query", "--text", "small left pleural effusion", "--index", made.index, "-k", 3, "--format", "json"))

    assert [hit["rank"] for hit in hits] == [1, 2, 3]
    fields = {"rank", "score", "id", "modality", "patient_id", "study_id", "view", "labels", "text", "path"} | {
        "percentile",
        "sentence",
        "sentence_span",
    }
    assert all(set(hit) == fields for hit in hits)
    assert all(hit["modality"] == "images" and Path(hit["path"]).is_file() for hit in hits)
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_a_label_finds_what_its_prompt_written_out_finds(made, tmp_path):
    """Prompts that were given to the index's encoder later leave the index valid."""
    encoder = load_checkpoint(made.run / "best")
    encoder.add_prompts(PromptConfig(names=("Edema", "Pleural Effusion"), words="there is a"))
    save_checkpoint(encoder, tmp_path / "prompted")
    asked = ("query", "--index", made.index, "-k", 3, "--format", "json")

    hits = json.loads(succeeds(*asked, "--label", "Pleural Effusion", "--encoder", tmp_path / "prompted"))

    written = json.loads(succeeds(*asked, "--text", "there is a pleural effusion"))
    assert [hit["id"] for hit in hits] == [hit["id"] for hit in written]
    assert "Edema, Pleural Effusion" in fails(*asked, "--label", "Hernia", "--encoder", tmp_path / "prompted")
    assert "no learned prompts" in fails(*asked, "--label", "Edema")


def test_an_image_of_the_corpus_does_not_find_its_own_patient(made):
    asked = medret("query", "--image", made.image, "--index", made.index, "--format", "json", "-k", 500)

    patient = made.image.parts[-3].removeprefix("p")
    hits = json.loads(asked.stdout)
    assert asked.returncode == 0
    assert hits
    assert patient not in {hit["patient_id"] for hit in hits}
    assert "patient" in asked.stderr
    assert "instead of 500" in asked.stderr


def test_a_foreign_image_finds_every_patient(made, tmp_path):
    foreign = shutil.copy(made.image, tmp_path / "film.jpg")

    hits = json.loads(succeeds("query", "--image", foreign, "--index", made.index, "--format", "json", "-k", 1))

    assert hits[0]["id"] == made.image.stem
    assert hits[0]["score"] == pytest.approx(1, abs=1e-4)  # the stored vector may have been computed in bfloat16


@pytest.mark.parametrize("find", ["images", "reports", "sentences"])
def test_a_record_finds_each_modality(made, find):
    hits = json.loads(succeeds("query", "--id", made.image.stem, "--find", find, "--index", made.index, "--format", "json", "-k", 2))

    assert {hit["modality"] for hit in hits} == {find}


def test_a_query_keeps_to_what_records_say_of_themselves_and_says_how_it_searched(made):
    patient = json.loads(succeeds("query", "--text", "edema", "--index", made.index, "--format", "json", "-k", 1))[0]["patient_id"]
    asked = ("query", "--text", "edema", "--index", made.index, "--format", "json", "-k", 500)

    positive = medret(*asked, "--only", "pleural_effusion=positive,uncertain")
    both = medret(*asked, "--only", "Pleural Effusion=positive", "--only", f"patient={patient}", "--find", "reports")

    assert positive.returncode == both.returncode == 0, positive.stderr + both.stderr
    hits = json.loads(positive.stdout)
    assert {hit["labels"]["Pleural Effusion"] for hit in hits} <= {"positive", "uncertain"}
    assert 0 < len(hits) < 500
    assert f"note: exact over the {len(hits)} allowed rows" in positive.stderr
    assert all(hit["patient_id"] == patient and hit["labels"]["Pleural Effusion"] == "positive" for hit in json.loads(both.stdout))


@pytest.mark.parametrize(
    ("only", "says"),
    [
        ("colour=red", "Columns: id, patient_id"),
        ("Edema=yes", "not_mentioned, or nothing"),
        ("view=SIDEWAYS", "choose from what the index holds: "),
        ("patient_id=nobody", "others"),
        ("study_date=yesterday", "no ISO date"),
    ],
)
def test_a_condition_that_nothing_meets_lists_what_there_is(made, only, says):
    assert says in fails("query", "--text", "edema", "--index", made.index, "--only", only)


def test_a_condition_without_a_value_is_wrong_usage(made):
    done = medret("query", "--text", "edema", "--index", made.index, "--only", "sex")

    assert done.returncode == 2
    assert "COLUMN=VALUE" in done.stderr


def test_an_evaluation_keeps_to_conditions_and_names_them(made, tmp_path):
    asked = ("evaluate", "label-precision", "--index", made.index, "--direction", "text-image", "--json", tmp_path / "result.json")

    succeeds(*asked, "--only", "pleural effusion=positive,negative", "--html", tmp_path / "page.html")

    result = json.loads((tmp_path / "result.json").read_text())
    assert result["protocol"]["only"] == ["pleural effusion=positive,negative"]
    assert "allowed rows" in (tmp_path / "page.html").read_text()


def test_an_expression_chooses_what_is_asked_and_evaluated(made, tmp_path):
    where = "view in ('PA', AP) and (pleural_effusion == positive or edema in (positive, uncertain)) and not split == \"train\""
    asked = ("query", "--text", "edema", "--index", made.index, "--format", "json", "-k", 500)
    scored = ("evaluate", "label-precision", "--index", made.index, "--direction", "text-image", "--json", tmp_path / "result.json")
    with gzip.open(made.corpus / "mimic-cxr-2.0.0-split.csv.gz", "rt") as splits:
        train = {row["dicom_id"] for row in csv.DictReader(splits) if row["split"] == "train"}

    chosen = medret(*asked, "--where", where)
    every = json.loads(succeeds(*asked))
    succeeds(*scored, "--where", where, "--html", tmp_path / "page.html")

    expected = [
        hit["id"]
        for hit in every
        if hit["view"] in ("PA", "AP")
        and (hit["labels"].get("Pleural Effusion") == "positive" or hit["labels"].get("Edema") in ("positive", "uncertain"))
        and hit["id"] not in train
    ]
    assert [hit["id"] for hit in json.loads(chosen.stdout)] == expected != []
    assert f"note: exact over the {len(expected)} allowed rows" in chosen.stderr
    assert json.loads((tmp_path / "result.json").read_text())["protocol"]["where"].startswith('view in ("PA", "AP") and (pleural_eff')
    assert f"exact over the {len(expected)} allowed rows" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("command", [("query", "--text", "edema"), ("evaluate", "label-precision")])
@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("view = PA", "where, at character 6: found '=', expected =="),
        ("veiw == PA", "where, at character 1: no column or finding 'veiw'; did you mean view?"),
        ("age > 3 and edema == yes", "where, at character 22: Edema is asked to be 'yes'; choose from: positive, negative"),
    ],
)
def test_a_mistake_in_an_expression_is_one_line_with_its_place(made, command, where, says):
    assert says in fails(*command, "--index", made.index, "--where", where)


def test_a_query_keeps_to_the_views_and_splits_asked_for(made):
    out = succeeds("query", "--text", "edema", "--view", "PA", "--split", "train", "--index", made.index, "--format", "json", "-k", 500)

    with (
        gzip.open(made.corpus / "mimic-cxr-2.0.0-split.csv.gz", "rt") as splits,
        gzip.open(made.corpus / "mimic-cxr-2.0.0-metadata.csv.gz", "rt") as views,
    ):
        train = {row["dicom_id"] for row in csv.DictReader(splits) if row["split"] == "train"}
        frontal = {row["dicom_id"] for row in csv.DictReader(views) if row["ViewPosition"] == "PA"}
    assert {hit["id"] for hit in json.loads(out)} == train & frontal


def test_the_table_shows_one_line_a_hit(made):
    out = succeeds("query", "--text", "cardiomegaly", "--index", made.index, "-k", 4)

    assert len(out.splitlines()) == 5
    assert out.splitlines()[0].split()[:4] == ["rank", "score", "percentile", "id"]


def test_the_page_is_self_contained_and_names_no_patient(made):
    page = succeeds("query", "--text", "cardiomegaly", "--index", made.index, "-k", 3, "--format", "html")
    hits = json.loads(succeeds("query", "--text", "cardiomegaly", "--index", made.index, "-k", 3, "--format", "json"))

    assert page.count("data:image/jpeg;base64,") == 3
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    for hit in hits:
        assert f"{hit['score']:.3f}" in page
        for secret in ("id", "patient_id", "study_id", "path"):
            assert str(hit[secret]) not in page

    named = succeeds("query", "--text", "cardiomegaly", "--index", made.index, "-k", 3, "--format", "html", "--with-ids")
    assert all(hit["patient_id"] in named and hit["path"] in named for hit in hits)


def test_evaluations_follow_the_schema_with_chance_beside_each_figure(made, tmp_path):
    out = tmp_path / "result.json"
    printed = succeeds("evaluate", "label-precision", "--index", made.index, "--json", out, "--html", tmp_path / "page.html")

    result = json.loads(out.read_text())
    assert result["benchmark"] == "label-precision"
    assert set(result["directions"]) == {"text-image", "image-image", "image-report"}
    assert set(result["metrics"]["P@5"]) == {"value", "chance", "low", "high"}
    values = [row["P@5"]["value"] for row in result["per_class"].values()]
    assert result["metrics"]["P@5"]["value"] == pytest.approx(sum(values) / len(values))
    assert "uncertain: negative" in printed
    assert "P@5" in (tmp_path / "page.html").read_text()


def test_report_recall_scores_both_ways(made, tmp_path):
    succeeds("evaluate", "report-recall", "--index", made.index, "--split", "train", "--json", tmp_path / "result.json")

    result = json.loads((tmp_path / "result.json").read_text())
    assert set(result["directions"]) == {"image-report", "report-image"}
    assert {"R@1", "R@5", "R@10", "median_rank"} <= set(result["metrics"])


def test_processes_share_the_work_and_the_last_one_says_what_there_is(made, tmp_path):
    told = ("encode", made.corpus, "--encoder", made.run, "--out", tmp_path / "shards", "--cache", tmp_path / "cache", "--split", "test")
    succeeds("cache", made.corpus, "--encoder", made.run, "--out", tmp_path / "cache", "--split", "test")
    first = medret(*told, "--size", 2, "--rank", 1)
    summary = json.loads(succeeds(*told, "--size", 2, "--rank", 0, "--json"))

    assert "other processes have still to make their shards" in first.stderr
    assert re.search(r"not whole yet: this process has done (\d+ \w+|nothing new).*; others are not done$", first.stdout.splitlines()[0])
    assert summary["complete"]
    assert (summary["failures"], summary["compute"]["pixels"]) == (0, "squares 512")
    assert summary["rates"]["images"] > 0
    assert len(list((tmp_path / "cache").glob("*.arrows"))) == 1
    (note,) = (line for line in medret(*told, "--rank", 1).stderr.splitlines() if "rank" in line.lower() and "go together" in line)
    assert note


def test_a_corpus_is_encoded_on_the_way_to_its_index_in_the_default_place(made, tmp_path):
    succeeds("build-index", made.corpus, "--encoder", made.run, "--split", "test", cwd=tmp_path)

    hits = json.loads(succeeds("query", "--text", "edema", "--format", "json", cwd=tmp_path))
    assert (tmp_path / "medret-index" / "shards" / "manifest.json").is_file()
    assert hits


def test_a_folder_of_films_is_indexed_and_asked_without_naming_an_encoder(made, tmp_path):
    """As after an installation that brings an encoder along: here the trained one stands in its place."""
    for film in sorted(made.corpus.rglob("*.jpg"))[:4]:
        shutil.copy(film, tmp_path)
    card = made.run / "best" / "MODEL_CARD.md"
    card.write_text("What it cannot do.\n")
    default = {**os.environ, "MEDRET_ENCODER": str(made.run)}

    built = medret("build-index", ".", cwd=tmp_path, environment=default)
    hits = json.loads(succeeds("query", "--text", "enlarged heart", "--format", "json", cwd=tmp_path))

    assert built.returncode == 0, built.stderr
    mark = json.loads((made.run / "best" / "encoder.json").read_text())["fingerprint"]
    (told,) = [line for line in built.stderr.splitlines() if "no --encoder given" in line]
    assert mark in told and "research only" in told and str(card) in told
    assert [hit["modality"] for hit in hits] == ["images"] * 4
    assert (tmp_path / "medret-index" / "encoder" / "MODEL_CARD.md").is_file()
    assert mark in succeeds("doctor", environment=default)


def test_a_named_encoder_is_taken_before_the_default_one(made, tmp_path):
    nowhere = {**os.environ, "MEDRET_ENCODER": str(tmp_path / "nowhere")}

    unnamed = medret("encode", made.corpus, "--out", tmp_path / "shards", environment=nowhere)
    named = medret("encode", made.corpus, "--split", "test", "--out", tmp_path / "shards", "--encoder", made.run, environment=nowhere)
    built = medret("build-index", tmp_path / "shards", "--out", tmp_path / "index", environment=nowhere)

    assert (unnamed.returncode, named.returncode, built.returncode) == (1, 0, 0), (named.stderr, built.stderr)
    assert f"{tmp_path / 'nowhere'}: nothing, expected an encoder" in unnamed.stderr
    assert "no --encoder given" not in named.stderr + built.stderr


def test_an_index_and_its_shards_can_be_moved_together(made, tmp_path):
    shutil.copytree(made.shards, tmp_path / "elsewhere" / "shards")
    shutil.copytree(made.index, tmp_path / "elsewhere" / "index")

    assert json.loads(succeeds("query", "--text", "edema", "--index", tmp_path / "elsewhere" / "index", "--format", "json"))


def test_pseudonyms_stand_for_every_id_and_paths_stay_private(made, tmp_path):
    key = tmp_path / "key"
    key.write_text("0123456789abcdef0123456789abcdef\n")
    key.chmod(0o600)
    index = tmp_path / "index"
    succeeds("build-index", made.corpus, "--encoder", made.run, "--split", "test", "--pseudonymise", key, "--out", index)

    hits = json.loads(succeeds("query", "--text", "edema", "--index", index, "--format", "json"))

    with (index / "shards" / "private" / "paths.csv").open(newline="") as file:
        film = Path(next(csv.DictReader(file))["path"])
    told = medret("query", "--image", film, "--index", index, "--format", "json")
    shutil.rmtree(index / "shards" / "private")
    untold = medret("query", "--image", film, "--index", index, "--format", "json")
    assert "left out" in told.stderr and "paths.csv" not in told.stderr
    assert "its patient is not left out" in untold.stderr
    assert json.loads(untold.stdout)[0]["score"] > json.loads(told.stdout)[0]["score"]

    patients = {path.name.removeprefix("p") for path in made.corpus.glob("files/p1*/p*")}
    assert not patients & {hit["patient_id"] for hit in hits}
    assert {hit["path"] for hit in hits} == {None}
    assert index.stat().st_mode & 0o077 == 0
    for file in (index / "shards").glob("*.arrow"):
        assert not any(patient.encode() in file.read_bytes() for patient in patients)


def test_doctor_finds_this_installation_sound():
    assert "faiss" in succeeds("doctor")


def test_each_fault_of_the_user_is_one_line_and_exit_code_1(made, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "film.jpg"
    text.write_text("no film")

    assert str(empty) in fails("corpus", empty)
    assert "nowhere" in fails("corpus", tmp_path / "nowhere")
    assert "film.jpg" in fails("query", "--image", text, "--index", made.index)
    assert "empty" in fails("query", "--text", "  ", "--index", made.index)
    assert "no such record" in fails("query", "--id", "nobody", "--index", made.index)
    assert "is no index" in fails("query", "--text", "edema", "--index", empty)
    assert "batch_sise" in fails("train", made.corpus, "--out", tmp_path / "run", "--set", "batch_sise=3")
    assert not (tmp_path / "index").exists()
    assert not (tmp_path / "run").exists()


def test_a_shard_cut_in_half_is_never_taken_for_whole(made, tmp_path):
    shards = shutil.copytree(made.shards, tmp_path / "shards")
    victim = next(shards.glob("images-*.arrow"))
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])

    assert victim.name in fails("build-index", shards, "--out", tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_an_index_refuses_another_encoder(made, tmp_path):
    other = tmp_path / "other"
    succeeds("train", made.corpus, "--out", other, "--epochs", 1, "--batch-size", 16, "--seed", 9, "--set", "size=64")

    message = fails("query", "--text", "edema", "--index", made.index, "--encoder", other)

    mine, theirs = (json.loads((run / "best" / "encoder.json").read_text())["fingerprint"] for run in (made.run, other))
    assert mine in message
    assert theirs in message


def test_an_option_that_a_benchmark_does_not_have_is_refused_not_ignored(made):
    done = medret("evaluate", "report-recall", "--uncertain", "negative", "--index", made.index)

    assert done.returncode == 2
    assert "report-recall has no option --uncertain" in done.stderr


def test_a_place_for_the_result_that_is_not_there_is_said_before_the_work(made, tmp_path):
    assert "nowhere" in fails("evaluate", "report-recall", "--index", tmp_path, "--json", tmp_path / "nowhere" / "result.json")
    assert "is a folder" in fails("evaluate", "report-recall", "--index", tmp_path, "--html", tmp_path)


def test_an_error_of_medret_itself_is_one_line_without_data(monkeypatch, capsys):
    def breaks() -> None:
        raise RuntimeError("Doe, Jane")

    monkeypatch.setattr(cli, "build_app", lambda asked: breaks)
    monkeypatch.delenv(cli.DEBUG, raising=False)

    with pytest.raises(SystemExit) as stopped:
        cli.main()

    assert stopped.value.code == 1
    printed = capsys.readouterr().err
    assert printed.startswith("medret: internal error: RuntimeError at test_retrieval_cli.py:")
    assert "Doe" not in printed
    assert len(printed.splitlines()) == 1
    monkeypatch.setenv(cli.DEBUG, "1")
    with pytest.raises(RuntimeError):
        cli.main()


def test_wrong_usage_ends_with_exit_code_2(made):
    assert medret("query", "--index", made.index).returncode == 2
    for options in (
        ["--text", "a", "--queries", "a.jsonl", "--out", "b.jsonl"],
        ["--queries", "a.jsonl"],
        ["--text", "a", "--explain", "--format", "html"],
        ["--text", "a", "--collapse", "film"],
    ):
        assert medret("query", *options, "--index", made.index).returncode == 2, options
    assert medret("evaluate", "chexpert-8x200", "--index", made.index).returncode == 2


def test_a_corpus_without_films_has_none_to_cache(tmp_path):
    (tmp_path / "texts.csv").write_text("id,text\na,No effusion.\n")

    done = medret("cache", tmp_path / "texts.csv", "--out", tmp_path / "cache")

    assert done.returncode == 1
    assert (
        done.stderr.splitlines()[-1] == f"medret: {tmp_path / 'texts.csv'}: no images. Look at it: medret corpus {tmp_path / 'texts.csv'}"
    )


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--shard-size", "abc"], "--shard-size: 'abc' is no amount of bytes"),
        (["--shard-size", "0"], "--shard-size is 0, expected above 0"),
        (["--compute", "float8"], "--compute is 'float8'"),
        (["--text-unit", "word"], "--text-unit is"),
        (["--max-failures", "many"], "--max-failures: 'many' is neither"),
        (["--rank", "2", "--size", "2"], "--rank is 2 of 2 processes"),
    ],
)
def test_wrong_options_of_encoding_are_named_before_the_corpus_is_read(tmp_path, options, fault):
    commands = ["encode"] if "--rank" in options else ["encode", "build-index"]
    for command in commands:
        done = medret(command, tmp_path / "no-such-corpus", "--out", tmp_path / "out", *options)

        assert done.returncode == 2
        assert fault in " ".join(done.stderr.replace("│", " ").split())


def test_a_direction_that_a_benchmark_does_not_have_is_wrong_usage(made):
    for benchmark in (["label-precision"], ["report-recall"], ["chexpert-8x200", made.corpus]):
        done = medret("evaluate", *benchmark, "--index", made.index, "--direction", "text-text")

        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert "image" in done.stderr  # the directions that there are
