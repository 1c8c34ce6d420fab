import csv
import gzip
import hashlib
import io
import re
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoders.errors import MedretError
from index.corpora.phantom import write_phantoms
from index.corpora.phantom_cases import SEVERITIES, SIZES, ZONES, PhantomFinding, draw_patient
from index.corpora.phantom_film import equalise
from index.corpora.phantom_findings import draw_film, draw_scene
from index.corpora.phantom_report import write_report
from index.corpora.readers import open_corpus
from index.corpora.record import LabelState, Tally

PATIENTS = 20
LABELS = [  # as in the header of mimic-cxr-2.0.0-chexpert.csv.gz
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion"),
    *("Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices"),
]
DRAWN = ("Pleural Effusion", "Cardiomegaly", "Pneumothorax", "Lung Opacity", "Edema", "Atelectasis", "Support Devices")

# A reader of the reports that knows nothing of how they were written.
KEYWORDS = {
    "Atelectasis": "atelectasis",
    "Cardiomegaly": "cardiomegaly|heart|cardiac silhouette",
    "Consolidation": "consolidation",
    "Edema": "edema",
    "Enlarged Cardiomediastinum": "cardiomediastinal|mediastinal contours",
    "Fracture": "fracture",
    "Lung Lesion": "nodule",
    "Lung Opacity": "opacity|opacities|infiltrate",
    "Pleural Effusion": "effusions?|pleural fluid|pleural spaces?",
    "Pleural Other": "pleural thickening",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "pneumothorax",
    "Support Devices": "support devices|pacemaker|catheter|central line|(jugular|subclavian) line",
}
NEGATION = re.compile(r"\b(no|without|normal)\b", re.IGNORECASE)
DOUBT = re.compile(r"\b(possible|may|cannot be excluded|questionable)\b", re.IGNORECASE)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "corpus"
    return folder, write_phantoms(folder, PATIENTS, seed=3)


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    content = (folder / name).read_bytes()
    return list(csv.DictReader(io.StringIO((gzip.decompress(content) if name.endswith(".gz") else content).decode())))


def labels_of(folder: Path) -> dict[str, dict[str, str]]:
    return {row["study_id"]: row for row in rows(folder, "mimic-cxr-2.0.0-chexpert.csv.gz")}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def body(text: str) -> str:
    """What FINDINGS and IMPRESSION say, on one line, without list numbers."""
    parts = re.findall(r"\n (?:FINDINGS|IMPRESSION): (.*?)(?=\n [A-Z]+:|\Z)", text, re.DOTALL)
    return re.sub(r" \d\. ", " ", " ".join(" ".join(parts).split()).join("  "))


def stated(text: str) -> dict[str, float]:
    """Labels by keywords: a positive mention outweighs a doubtful one, and that a negative one."""
    found: dict[str, float] = {}
    for sentence in re.split(r"(?<=\.) ", body(text)):
        for finding, words in KEYWORDS.items():
            if not re.search(rf"\b({words})\b", sentence, re.IGNORECASE):
                continue
            if finding == "Lung Opacity" and "may represent pneumonia" in sentence:
                state = 1.0
            else:
                state = 0.0 if NEGATION.search(sentence) else -1.0 if DOUBT.search(sentence) else 1.0
            known = found.get(finding)
            found[finding] = state if known is None or (1.0, -1.0, 0.0).index(state) < (1.0, -1.0, 0.0).index(known) else known
    if all(state == 0.0 for finding, state in found.items() if finding != "Support Devices"):
        found["No Finding"] = 1.0
    return found


def example(name: str, **more: str) -> PhantomFinding:
    kinds = {"Edema": {"side": "bilateral", "zone": "perihilar", "size": "moderate"}, "Cardiomegaly": {"size": "moderate"}}
    usual = {"Pneumothorax": {"zone": "upper"}, "Support Devices": {"kind": "pacemaker", "zone": "upper", "size": ""}}
    return PhantomFinding(name=name, **{"size": "moderate", "zone": "lower", **kinds.get(name, {}), **usual.get(name, {}), **more})


def test_the_columns_are_those_of_mimic_in_their_order(corpus):
    def header(name: str) -> str:
        return ",".join(rows(corpus[0], name)[0])

    assert header("mimic-cxr-2.0.0-metadata.csv.gz") == (
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
        "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
    )
    assert header("mimic-cxr-2.0.0-split.csv.gz") == "dicom_id,study_id,subject_id,split"
    assert header("mimic-cxr-2.0.0-chexpert.csv.gz") == ",".join(["subject_id", "study_id", *LABELS])
    assert header("mimic-cxr-2.0.0-negbio.csv.gz") == ",".join(["subject_id", "study_id", *LABELS])
    assert header("boxes.csv") == "dicom_id,finding,side,zone,size,x_min,y_min,x_max,y_max"


def test_every_file_lies_where_mimic_has_it(corpus):
    folder, summary = corpus
    hexes = "-".join(["[0-9a-f]{8}"] * 5)
    patterns = (rf"files/p(1\d)/p\1\d{{6}}/s5\d{{7}}/{hexes}\.jpg", r"files/p(1\d)/p\1\d{6}/s5\d{7}\.txt")
    paths = [str(path.relative_to(folder)) for path in (folder / "files").rglob("*") if path.is_file()]
    images = [path for path in paths if re.fullmatch(patterns[0], path)]
    reports = [path for path in paths if re.fullmatch(patterns[1], path)]

    assert len(images) + len(reports) == len(paths)
    assert (len(images), len(reports)) == (summary.images, summary.reports)
    assert (folder / "IMAGE_FILENAMES").read_text().splitlines() == sorted(images)
    listed = {f"files/p{row['subject_id'][:2]}/p{row['subject_id']}/s{row['study_id']}" for row in labels_of(folder).values()}
    assert {f"{path}.txt" for path in listed} == set(reports)
    assert {path.rpartition("/")[0] for path in images} == listed
    assert {path.name for path in folder.iterdir()} == {
        *("files", "IMAGE_FILENAMES", "LICENSE.txt", "README", "SHA256SUMS.txt", "boxes.csv"),
        *(f"mimic-cxr-2.0.0-{name}.csv.gz" for name in ("metadata", "split", "chexpert", "negbio")),
    }


def test_the_checksums_are_those_of_all_other_files(corpus):
    lines = (corpus[0] / "SHA256SUMS.txt").read_text().splitlines()
    sums = {path: hashlib.sha256(content).hexdigest() for path, content in contents(corpus[0]).items() if path != "SHA256SUMS.txt"}

    assert {line[66:]: line[:64] for line in lines} == sums


def test_the_metadata_tell_the_truth_about_each_image(corpus):
    folder, _ = corpus
    saved = io.BytesIO()
    Image.new("L", (8, 8)).save(saved, "JPEG", quality=95)
    tables = Image.open(saved).quantization
    for row in rows(folder, "mimic-cxr-2.0.0-metadata.csv.gz"):
        home = folder / "files" / f"p{row['subject_id'][:2]}" / f"p{row['subject_id']}" / f"s{row['study_id']}"
        with Image.open(home / f"{row['dicom_id']}.jpg") as image:
            assert (image.height, image.width) == (int(row["Rows"]), int(row["Columns"]))
            assert image.mode == "L"
            assert image.quantization == tables
        assert row["ViewCodeSequence_CodeMeaning"] == {"PA": "postero-anterior", "AP": "antero-posterior"}[row["ViewPosition"]]
        assert re.fullmatch(r"2[12]\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])", row["StudyDate"])
        assert 0 <= float(row["StudyTime"]) < 240000
        assert row["PatientOrientationCodeSequence_CodeMeaning"] in ("Erect", "Recumbent")


def test_images_are_films_of_varying_shape_and_full_range(corpus):
    shapes = set()
    for path in corpus[0].rglob("*.jpg"):
        with Image.open(path) as image:
            pixels = np.asarray(image)
        shapes.add(pixels.shape)
        assert min(pixels.shape) >= 256
        assert max(pixels.shape) <= 320
        assert pixels.min() < 5
        assert pixels.max() > 245
        assert 60 < np.median(pixels) < 195  # equalised: half of it below the middle grey
    assert len(shapes) >= 4


def test_patients_are_split_seven_to_one_to_two_and_stay_whole(corpus):
    splits = defaultdict(set)
    for row in rows(corpus[0], "mimic-cxr-2.0.0-split.csv.gz"):
        splits[row["subject_id"]].add(row["split"])

    assert all(len(names) == 1 for names in splits.values())
    assert Counter(name for names in splits.values() for name in names) == {"train": 14, "validate": 2, "test": 4}


def test_every_patient_has_several_films_and_some_studies_have_two(corpus):
    metadata = rows(corpus[0], "mimic-cxr-2.0.0-metadata.csv.gz")
    assert min(Counter(row["subject_id"] for row in metadata).values()) >= 2
    views = defaultdict(list)
    for row in metadata:
        views[row["study_id"]].append(row["ViewPosition"])
    assert {tuple(sorted(each)) for each in views.values()} == {("PA",), ("AP",), ("AP", "PA")}


def test_a_finding_is_labelled_present_where_a_box_says_it_is_drawn(corpus):
    folder, _ = corpus
    boxed = defaultdict(set)
    for row in rows(folder, "boxes.csv"):
        boxed[row["dicom_id"]].add(row["finding"])
    labels = labels_of(folder)
    for row in rows(folder, "mimic-cxr-2.0.0-split.csv.gz"):
        positive = {name for name in LABELS if labels[row["study_id"]][name] == "1.0"} - {"No Finding"}
        assert positive == boxed[row["dicom_id"]]
    assert set().union(*boxed.values()) == set(DRAWN)


def test_boxes_lie_within_their_image_on_the_side_they_name(corpus):
    folder, _ = corpus
    sizes = {row["dicom_id"]: row for row in rows(folder, "mimic-cxr-2.0.0-metadata.csv.gz")}
    for row in rows(folder, "boxes.csv"):
        x_min, y_min, x_max, y_max = (int(row[name]) for name in ("x_min", "y_min", "x_max", "y_max"))
        width, height = int(sizes[row["dicom_id"]]["Columns"]), int(sizes[row["dicom_id"]]["Rows"])
        assert 0 <= x_min < x_max <= width
        assert 0 <= y_min < y_max <= height
        if row["finding"] not in ("Cardiomegaly", "Support Devices"):
            assert row["side"] == ("left" if x_min + x_max > width else "right"), row


def test_labels_agree_with_what_the_report_says(corpus):
    folder, _ = corpus
    for study, row in labels_of(folder).items():
        text = (folder / "files" / f"p{row['subject_id'][:2]}" / f"p{row['subject_id']}" / f"s{study}.txt").read_text()
        labelled = {name: float(row[name]) for name in LABELS if row[name]}
        assert labelled == stated(text), body(text)


def test_labels_agree_with_the_words_of_four_hundred_reports():
    """Every template and state, more than the written corpus holds."""
    seen = defaultdict(set)
    for number in range(400):
        patient = draw_patient(11, number)
        for study in patient.studies:
            report = write_report(patient, study)
            assert report.labels == stated(report.text), body(report.text)
            for name, state in report.labels.items():
                seen[name].add(state)
    assert all(seen[name] == {1.0, 0.0, -1.0} for name in DRAWN if name != "Support Devices")
    assert seen["No Finding"] == {1.0}
    assert set(seen) == set(LABELS)


def test_reports_name_the_side_place_and_size_that_are_drawn():
    for number in range(200):
        patient = draw_patient(12, number)
        for study in patient.studies:
            sentences = re.split(r"(?<=\.) ", body(write_report(patient, study).text))
            for finding in study.findings:
                mine = [line for line in sentences if re.search(rf"\b({KEYWORDS[finding.name]})\b", line, re.IGNORECASE)]
                sides = {side for line in mine for side in ("left", "right") if re.search(rf"\b{side}\b", line, re.IGNORECASE)}
                assert mine
                assert sides == ({finding.side} & {"left", "right"})
                words = " ".join(mine).lower()
                scale = SEVERITIES if finding.size in SEVERITIES and finding.name in ("Cardiomegaly", "Edema") else SIZES
                for size in scale:
                    assert size == finding.size or not re.search(rf"\b{size}(ly)?\b", words)
                if finding.name == "Lung Opacity":
                    assert {zone for zone in ZONES if zone in words} <= {finding.zone}


def test_a_report_looks_like_one_of_mimic():
    shapes = Counter()
    for number in range(150):
        patient = draw_patient(5, number)
        for study in patient.studies:
            text = write_report(patient, study).text
            lines = text.removesuffix("\n").split("\n")
            assert all(line.startswith(" ") and len(line) <= 79 for line in lines)
            assert " " * 33 + "FINAL REPORT" in lines
            assert "___" in text
            titles = re.findall(r"^ ([A-Z]+):", text, re.MULTILINE)
            assert titles[-1] in ("IMPRESSION", "FINDINGS")
            for title in ("EXAMINATION", "INDICATION", "TECHNIQUE", "COMPARISON"):
                assert titles.count(title) == 1
            shapes["wet read"] += "WET READ" in text
            shapes["addendum"] += "ADDENDUM" in text
            shapes["impression only"] += "FINDINGS" not in titles
            shapes["findings only"] += "IMPRESSION" not in titles
            shapes["all"] += 1
    assert all(0.01 < shapes[shape] / shapes["all"] < 0.15 for shape in ("wet read", "addendum", "impression only", "findings only"))


def test_four_hundred_patients_have_enough_of_every_finding_to_be_asked_for():
    shares, tested, images = Counter(), Counter(), 0
    for number in range(400):
        patient = draw_patient(0, number)
        for study in patient.studies:
            images += len(study.images)
            for name, state in write_report(patient, study).labels.items():
                shares[name] += len(study.images) * (state == 1.0)
                tested[name] += len(study.images) * (state == 1.0 and patient.split == "test")

    assert all(0.12 <= shares[name] / images <= 0.18 for name in DRAWN)
    assert 0.22 <= shares["No Finding"] / images <= 0.30
    assert all(tested[name] >= 15 for name in DRAWN)


@pytest.mark.parametrize("name", ["Pleural Effusion", "Pneumothorax", "Lung Opacity", "Atelectasis", "Support Devices"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_patients_left_is_the_pictures_right(name, side):
    """The same film with and without the finding differs on that side, and within the box."""
    for number in range(4):
        patient = draw_patient(1, number)
        pose = replace(patient.studies[0].images[0].pose, angle=0.0, shift=(0.0, 0.0))
        with_it, (box,) = draw_scene(patient.anatomy, pose, [example(name, side=side)])
        change = np.abs(with_it.attenuation - draw_scene(patient.anatomy, pose, [])[0].attenuation)
        column = np.average(np.arange(pose.columns), weights=change.sum(axis=0))
        row = np.average(np.arange(pose.rows), weights=change.sum(axis=1))

        assert (column > pose.columns / 2) == (side == "left")
        assert box.side == side
        assert box.x_min <= column < box.x_max
        assert box.y_min <= row < box.y_max
        assert change[box.y_min : box.y_max, box.x_min : box.x_max].sum() > 0.85 * change.sum()


@pytest.mark.parametrize("name", DRAWN)
def test_a_finding_shows_in_the_stored_picture_where_its_boxes_are(name):
    """Equalisation moves all grey levels a little; within the boxes the picture must change far more than outside."""
    for number in range(4):
        side = {} if name in ("Edema", "Cardiomegaly") else {"side": "left" if number % 2 else "right"}
        patient = draw_patient(2, number)
        pose = patient.studies[0].images[-1].pose
        picture, boxes = draw_film(patient.anatomy, pose, [example(name, **side)])
        change = np.abs(picture.astype(float) - draw_film(patient.anatomy, pose, [])[0])
        inside = np.zeros(change.shape, dtype=bool)
        for box in boxes:
            inside[box.y_min : box.y_max, box.x_min : box.x_max] = True

        assert len(boxes) == (2 if name == "Edema" else 1)
        assert change[inside].mean() > 2 * change[~inside].mean()


@pytest.mark.parametrize("name", ["Pleural Effusion", "Pneumothorax", "Lung Opacity", "Edema", "Atelectasis", "Cardiomegaly"])
def test_a_larger_finding_changes_more_of_the_picture(name):
    patient = draw_patient(4, 0)
    pose = patient.studies[0].images[0].pose
    normal = draw_scene(patient.anatomy, pose, [])[0].attenuation
    side = {} if name in ("Edema", "Cardiomegaly") else {"side": "right"}
    scale = SEVERITIES if name in ("Edema", "Cardiomegaly") else SIZES
    changes = [
        np.abs(draw_scene(patient.anatomy, pose, [example(name, size=size, **side)])[0].attenuation - normal).sum() for size in scale
    ]

    assert 0 < 1.1 * changes[0] < changes[1]
    assert 1.1 * changes[1] < changes[2]


def test_only_an_enlarged_heart_fills_more_than_half_of_the_chest():
    """The cardiothoracic ratio, by which radiologists judge; up to 0.5 is normal on a PA film."""
    for number in range(12):
        patient = draw_patient(6, number)
        pose = replace(patient.studies[0].images[0].pose, view="PA", angle=0.0)
        ratios = []
        for findings in ([], *([example("Cardiomegaly", size=size)] for size in SEVERITIES)):
            scene, _ = draw_scene(patient.anatomy, pose, findings)
            heart, chest = (np.ptp((shadow > 0.5).any(axis=0).nonzero()[0]) for shadow in (scene.heart, scene.lungs))
            ratios.append(heart / chest)
        assert ratios[0] <= 0.5
        assert 0.5 < ratios[1] < ratios[2] < ratios[3] < 0.75


def test_the_heart_lies_to_the_patients_left_and_the_right_diaphragm_is_higher():
    for number in range(8):
        patient = draw_patient(8, number)
        pose = replace(patient.studies[0].images[0].pose, angle=0.0, shift=(0.0, 0.0))
        scene, _ = draw_scene(patient.anatomy, pose, [])

        assert np.average(scene.x, weights=scene.heart) > 0.03
        lowest = [(scene.lungs > 0.5)[:, abs(scene.x[0] - x).argmin()].nonzero()[0].max() for x in (-0.33, 0.33)]
        assert lowest[0] < lowest[1]


def test_two_films_of_a_study_show_the_same_patient():
    """PA and AP of one study resemble each other more than films of other patients in the same pose."""
    patients = [patient for patient in (draw_patient(9, number) for number in range(12)) if len(patient.studies[0].images) == 2]
    pose = patients[0].studies[0].images[0].pose
    fields = [draw_scene(patient.anatomy, pose, [])[0].attenuation for patient in patients]
    again = draw_scene(patients[0].anatomy, replace(pose, view="AP"), [])[0].attenuation

    assert len(fields) > 2
    assert all(np.abs(again - fields[0]).mean() < np.abs(again - other).mean() for other in fields[1:])


def test_equalisation_is_that_of_opencv():
    """cv2.equalizeHist, spelled out level by level."""
    pixels = np.random.default_rng(0).normal(90, 20, (40, 50)).clip(0, 255).astype(np.uint8)
    lowest, total = int(pixels.min()), pixels.size
    expected = np.zeros_like(pixels)
    for level in range(lowest + 1, 256):
        above = int(((pixels > lowest) & (pixels <= level)).sum())
        expected[pixels == level] = round(above * 255 / (total - int((pixels == lowest).sum())))

    np.testing.assert_array_equal(equalise(pixels), expected)
    np.testing.assert_array_equal(equalise(np.full((3, 3), 7, np.uint8)), np.full((3, 3), 7))


def test_the_same_seed_writes_the_same_bytes_and_another_seed_another_corpus(tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        write_phantoms(tmp_path / name, 3, seed)

    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert not {path for path in contents(tmp_path / "a") if path.startswith("files")} & set(contents(tmp_path / "c"))


def test_more_patients_leave_the_first_ones_as_they_are(tmp_path):
    write_phantoms(tmp_path / "few", 2, 7)
    write_phantoms(tmp_path / "more", 4, 7)
    few, more = contents(tmp_path / "few"), contents(tmp_path / "more")

    assert all(more[path] == content for path, content in few.items() if path.startswith("files"))
    for name in ("metadata", "split", "chexpert"):
        path = f"mimic-cxr-2.0.0-{name}.csv.gz"
        assert set(gzip.decompress(few[path]).splitlines()) < set(gzip.decompress(more[path]).splitlines())


@pytest.mark.parametrize(("combinations", "sizes"), [(1, {1: 1}), (4, {1: 4}), (12, {1: 7, 2: 5}), (42, {1: 7, 2: 15, 3: 20})])
def test_only_so_many_sets_of_findings_occur_each_in_many_patients(combinations, sizes):
    """As the labels have them: a normal chest, then single findings, pairs and triples, without device and without doubt."""
    having = defaultdict(set)
    for number in range(10 * combinations):
        patient = draw_patient(5, number, combinations)
        for study in patient.studies:
            labels = write_report(patient, study).labels
            having[frozenset(name for name, state in labels.items() if state == 1.0)].add(number)
            assert {name for name, state in labels.items() if state == -1.0} <= {"Pneumonia"}

    assert Counter(len(names) for names in having) == sizes
    assert frozenset({"No Finding"}) in having
    assert all(names <= {*DRAWN, "No Finding"} - {"Support Devices"} for names in having)
    assert min(len(patients) for patients in having.values()) >= 3


def test_a_corpus_of_few_combinations_says_so(tmp_path):
    write_phantoms(tmp_path / "few", 3, 7, combinations=2)
    write_phantoms(tmp_path / "usual", 3, 7)

    assert "for 3 patients and 2 combinations of findings. Every" in (tmp_path / "few/README").read_text()
    assert "for 3 patients. Every" in (tmp_path / "usual/README").read_text()


def test_ids_of_many_patients_are_all_different():
    patients = [draw_patient(0, number) for number in range(300)]

    assert len({patient.subject_id for patient in patients}) == 300
    studies = [study.study_id for patient in patients for study in patient.studies]
    assert len(set(studies)) == len(studies)
    for patient in patients:
        days = [study.day for study in patient.studies]
        assert days == sorted(set(days))


def test_the_summary_counts_what_was_written(corpus):
    folder, summary = corpus
    labels = labels_of(folder)
    split = rows(folder, "mimic-cxr-2.0.0-split.csv.gz")

    assert (summary.patients, summary.studies, summary.images) == (PATIENTS, len(labels), len(split))
    assert summary.findings == {name: sum(labels[row["study_id"]][name] == "1.0" for row in split) for name in summary.findings}
    assert set(summary.findings) == set(LABELS)


def test_the_corpus_reads_back_without_a_fault(corpus):
    folder, summary = corpus
    labels = labels_of(folder)
    states = {"1.0": LabelState.POSITIVE, "0.0": LabelState.NEGATIVE, "-1.0": LabelState.UNCERTAIN, "": LabelState.NOT_MENTIONED}
    tally = Tally()
    records = list(open_corpus(folder, "mimic-cxr-jpg").records(tally))

    assert len(records) == summary.images
    assert not tally.left_out
    assert not tally.faults
    assert open_corpus(folder).format == "mimic-cxr-jpg"
    for record in records:
        assert record.image.is_file()
        assert {name: record.labels[name] for name in LABELS} == {name: states[labels[record.study_id][name]] for name in LABELS}
        assert record.sections.get("impression") or record.sections.get("findings")
    assert {state for record in records for state in record.labels.values()} == set(LabelState)


def test_progress_counts_the_patients(tmp_path):
    done = []
    write_phantoms(tmp_path / "corpus", 2, 0, progress=done.append)

    assert done == [1, 2]


def test_a_folder_that_holds_something_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(MedretError, match="expected a new or an empty folder"):
        write_phantoms(tmp_path, 1, 0)
    with pytest.raises(MedretError, match="expected a new or an empty folder"):
        write_phantoms(tmp_path / "notes.txt", 1, 0)
    assert contents(tmp_path) == {"notes.txt": b"mine"}


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "empty").mkdir()

    assert write_phantoms(tmp_path / "empty", 1, 0).patients == 1
    assert (tmp_path / "empty" / "README").is_file()


@pytest.mark.parametrize(("patients", "seed"), [(0, 0), (1, -1), (10**9, 0)])
def test_numbers_out_of_range_are_a_wrong_call(tmp_path, patients, seed):
    with pytest.raises(ValueError, match="expected"):
        write_phantoms(tmp_path / "corpus", patients, seed)


@pytest.mark.parametrize("combinations", [0, 43])
def test_combinations_out_of_range_are_a_wrong_call(tmp_path, combinations):
    with pytest.raises(ValueError, match="expected 1 to 42"):
        write_phantoms(tmp_path / "corpus", 1, 0, combinations=combinations)
