"""CheXpert v1.0 and v1.0-small: paths that name patient, study and view, and labels per image."""

from collections.abc import Iterator
from pathlib import Path

from encoders.errors import MedretError
from index.corpora.chexpert_fields import SPLITS, age_of, chexpert_id, read_paths, sex_of, view_of
from index.corpora.chexpert_plus import label_file, read_plus
from index.corpora.csvfile import find_csv, read_header
from index.corpora.labels import LabelColumns
from index.corpora.record import FINDINGS, Record, Tally

__all__ = ["chexpert_id", "findings_chexpert", "read_chexpert", "recognises_chexpert"]


def recognises_chexpert(root: Path) -> bool:
    """Say whether a folder, or one in it, is CheXpert v1.0, v1.0-small or Plus."""
    return root.is_dir() and bool(_releases(root))


def findings_chexpert(root: Path, labels: str | None = None) -> tuple[str, ...]:
    """Return the findings that the labels name; () for a CheXpert Plus without its label files.

    Raises:
        MedretError: If the folder is no CheXpert, or the label set asked for is not there.
    """
    release = _release(root)
    if _is_plus(release):
        return FINDINGS if label_file(release, labels) else ()
    _refuse_label_set(release, labels)
    return FINDINGS


def read_chexpert(root: Path, tally: Tally, labels: str | None = None) -> Iterator[Record]:
    """Yield a record per row of train.csv, valid.csv and test.csv, or of CheXpert Plus' table.

    The view is "AP" or "PA" (rarely "LL", "RL") as the source has it for frontal films, "Frontal" where it has none,
    and "LATERAL" for every lateral film. An age of 0 is no age.

    Args:
        root: The release's folder, or the folder in which it lies.
        tally: Counts what is left out or at fault.
        labels: For Plus: which text the labels were drawn from, "impression" (default), "findings" or "report".

    Raises:
        MedretError: If a file is missing, damaged or lacks a column.
    """
    release = _release(root)
    if _is_plus(release):
        yield from read_plus(release, tally, labels)
        return
    _refuse_label_set(release, labels)
    seen: set[str] = set()
    for stem in SPLITS:
        path = find_csv(release, stem)
        if path is not None:
            yield from _read_list(path, release, stem, seen, tally)


def _read_list(path: Path, release: Path, stem: str, seen: set[str], tally: Tally) -> Iterator[Record]:
    columns = LabelColumns(path, read_header(path))
    # The test labels, published apart, come without what is known of the patient.
    required = () if stem == "test" else ("Sex", "Age", "Frontal/Lateral", "AP/PA")
    for row, parsed in read_paths(path, "Path", required, seen, tally):
        yield Record(
            id=parsed.id,
            image=release / f"{parsed.id}{parsed.suffix or '.jpg'}",
            patient_id=parsed.patient,
            study_id=parsed.study,
            view=view_of(parsed, row.get("Frontal/Lateral", ""), row.get("AP/PA", "")),
            split=SPLITS[stem],
            labels=columns.read(row, parsed.id, tally),
            age=age_of(row.get("Age", ""), parsed.id, tally),
            sex=sex_of(row.get("Sex", ""), parsed.id, tally),
        )


def _releases(root: Path) -> list[Path]:
    """The CheXpert at `root`, else those directly in it; only folders of that name are opened, as there may be thousands."""
    if _is_release(root):
        return [root]
    return sorted(child for child in root.iterdir() if "chexpert" in child.name.lower() and child.is_dir() and _is_release(child))


def _is_release(folder: Path) -> bool:
    lists = [path for stem in ("train", "valid") if (path := find_csv(folder, stem))]
    return _is_plus(folder) or any(_names_chexpert(path) for path in lists)


def _names_chexpert(path: Path) -> bool:
    try:
        return {"Path", "Frontal/Lateral", "No Finding"} <= set(read_header(path))
    except MedretError:
        return False


def _is_plus(folder: Path) -> bool:
    return any(folder.glob("df_chexpert_plus_*.csv*"))


def _release(root: Path) -> Path:
    root = root.absolute()
    releases = _releases(root) if root.is_dir() else []
    if len(releases) == 1:
        return releases[0]
    if releases:
        raise MedretError(f"{root}: holds several releases ({', '.join(path.name for path in releases)}). Name one of these folders.")
    raise MedretError(
        f"{root}: no CheXpert here (looked for train.csv or valid.csv with Path, Frontal/Lateral and the findings, or "
        "df_chexpert_plus_*.csv). Name the folder CheXpert-v1.0 or CheXpert-v1.0-small."
    )


def _refuse_label_set(release: Path, labels: str | None) -> None:
    if labels is not None:
        raise MedretError(f"{release}: only CheXpert Plus has several label sets, '{labels}' is none of this release. Leave --labels out.")
