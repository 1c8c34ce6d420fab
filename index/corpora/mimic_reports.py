"""Where MIMIC-CXR's reports lie on a disk: text files in one of three layouts, the sectioned table, or both."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from encoders.errors import MedretError
from index.corpora.csvfile import find_csv, read_csv
from index.corpora.record import Tally
from index.corpora.report import section_report

_NO_SECTIONS: Mapping[str, str] = MappingProxyType({})
_SECTIONED = "mimic_cxr_sectioned"
_SECTIONED_COLUMNS = ("impression", "findings", "last_paragraph", "comparison")


class ReportSource:
    """The sections of each study's report.

    Tables come before text files: a study in mimic_cxr_sectioned.csv has the sections written there. The official
    script leaves the studies with hand-made rules out of that table, so a study that is not in it is looked for
    among the text files, and so is every study where there is no table.
    """

    def __init__(self, root: Path, reports: Path | None, tally: Tally) -> None:
        """Look for reports beside the images and, where given, in `reports`.

        Args:
            root: The corpus, with files/p10/p10000032/s50414267.txt or mimic_cxr_sectioned.csv(.gz), or neither.
            reports: A sectioned table, or a folder that holds one or text files: files/p10/p10000032/s50414267.txt,
                p10/p10000032/s50414267.txt, or s50414267.txt.
            tally: Counts studies without a report.

        Raises:
            MedretError: If `reports` holds no reports, or a table is damaged.
        """
        self._tally = tally
        self._table: dict[str, Mapping[str, str]] = {}
        self._folders: list[tuple[Path, bool]] = []  # with whether files lie flat in it
        self._without: set[str] = set()
        self._last: tuple[str, Mapping[str, str]] = ("", _NO_SECTIONS)
        if reports is not None and not self._add(reports):
            raise MedretError(
                f"{reports}: no reports of MIMIC-CXR here (looked for {_SECTIONED}.csv(.gz), files/p10/..., p10/... and s<study>.txt). "
                "Unpack mimic-cxr-reports.zip and name its folder."
            )
        self._add(root)

    def sections(self, subject: str, study: str) -> Mapping[str, str]:
        """Return section name to text for a study; empty, and counted once, where it has no report."""
        if self._last[0] == study:
            return self._last[1]
        sections = self._table.get(study) or self._from_file(subject, study)
        if not sections and study not in self._without:
            self._without.add(study)
            self._tally.fault("study without a report", study)
        self._last = (study, sections)
        return sections

    def _add(self, place: Path) -> bool:
        if not place.exists():
            raise MedretError(f"{place}: no such file or folder. Check the path of the reports.")
        if place.is_file():
            if place.name.lower().endswith(".zip"):
                raise MedretError(f"{place}: the reports are still packed. Unpack the file and name its folder.")
            self._read_table(place)
            return True
        table = find_csv(place, _SECTIONED)
        if table is not None:
            self._read_table(table)
        folder = place / "files" if (place / "files").is_dir() else place
        if any(folder.glob("p[0-9][0-9]")):
            self._folders.append((folder, False))
        elif next(folder.glob("s[0-9]*.txt"), None):
            self._folders.append((folder, True))
        else:
            return table is not None
        return True

    def _read_table(self, path: Path) -> None:
        for row in read_csv(path, ("study", *_SECTIONED_COLUMNS)):
            study = row["study"].strip().removeprefix("s")
            self._table.setdefault(study, {name: row[name].strip() for name in _SECTIONED_COLUMNS if row[name].strip()})

    def _from_file(self, subject: str, study: str) -> Mapping[str, str]:
        for folder, flat in self._folders:
            path = folder / f"s{study}.txt" if flat else folder / f"p{subject[:2]}" / f"p{subject}" / f"s{study}.txt"
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise MedretError(f"{path}: cannot be read ({error.strerror or error}). Check the file and its permissions.") from error
            return section_report(self._decoded(data, study))
        return _NO_SECTIONS

    def _decoded(self, data: bytes, study: str) -> str:
        text = data.decode("utf-8-sig", errors="replace")
        if "\ufffd" in text:
            self._tally.fault("report is not UTF-8; the bytes that are none were replaced", study)
        return text.replace("\0", "")
