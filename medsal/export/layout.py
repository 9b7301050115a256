"""Where the files of a case lie inside the output folder: three layouts, each a table of patterns.

In the layout ``seed`` the folder of a case carries the subject's name. Where a subject has two sessions it carries the
case's name instead, which is unique: two sessions under one name would overwrite each other.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medsal.errors import UsageError

LAYOUTS: dict[str, dict[str, str]] = {
    "seed": {
        "nifti": "{method}/{name}/{name}_{method}.nii.gz",
        "npy": "{method}/{name}/{name}_{method}_attributions.npy",
        "slice": "{method}/{name}/{name}_{method}_slice_{slice}.png",
        "summary": "{method}/{name}/{name}_{method}_summary.png",
    },
    "bids": {
        "nifti": "{anat}/{stem}_space-T1w_desc-{desc}_attr.nii.gz",
        "sidecar": "{anat}/{stem}_space-T1w_desc-{desc}_attr.json",
        "npy": "{anat}/{stem}_space-network_desc-{desc}_attr.npy",
        "slice": "{anat}/figures/{stem}_desc-{desc}_slice_{slice}.png",
        "summary": "{anat}/{stem}_desc-{desc}_slices.png",
    },
    "flat": {
        "nifti": "{case}_{method}.nii.gz",
        "npy": "{case}_{method}_attributions.npy",
        "slice": "{case}_{method}_slice_{slice}.png",
        "summary": "{case}_{method}_summary.png",
    },
}
"""Layout -> kind of file -> its path inside the output folder."""


@dataclass(frozen=True)
class Names:
    """The names of one case in paths, all of them safe.

    Attributes:
        case: unique.
        name: what the layout ``seed`` calls it: the subject, or the case where the subject alone is not unique.
        anat: its folder in a BIDS derivative.
        stem: how its files begin in a BIDS derivative.
    """

    case: str
    name: str
    anat: str
    stem: str

    def path(self, output_dir: Path, layout: str, kind: str, *, method: str = "", cut: str = "") -> Path:
        """Where one file lies.

        Args:
            output_dir: nothing is ever written outside it.
            layout: a key of `LAYOUTS`.
            kind: a key of that layout.
            method: the method's name.
            cut: the slice's name.

        Returns:
            The path, below ``output_dir``.
        """
        pattern = LAYOUTS[check_layout(layout)][kind]
        method = safe_name(method)
        words = {"case": self.case, "name": self.name, "anat": self.anat, "stem": self.stem}
        return inside(output_dir, pattern.format(**words, method=method, desc=camel(method), slice=safe_name(cut)))


def names_of(case: str, subject: str, session: str = "", *, repeated: frozenset[str] | None = None) -> Names:
    """Make the names of a case.

    Args:
        case: unique.
        subject: whose image it is; empty means the case itself.
        session: may be empty.
        repeated: subjects whose name does not tell their cases apart, from `repeated_subjects`; None means not known,
            and every case keeps its own name unless it is the subject's.

    Returns:
        The names.

    Example:
        >>> names_of("sub-01_ses-2", "sub-01", "ses-2", repeated=frozenset()).name
        'sub-01'
        >>> names_of("sub-01_ses-2", "sub-01", "ses-2", repeated=frozenset({"sub-01"})).name
        'sub-01_ses-2'
    """
    safe, person = safe_name(case), safe_name(subject or case)
    alone = repeated is not None and person not in repeated
    entities = [f"sub-{_label(subject or case, 'sub-')}"] + ([f"ses-{_label(session, 'ses-')}"] if session else [])
    stem = list(entities)
    if case not in {subject, f"{subject}_{session}", f"{subject}_ses-{session}"}:
        stem.append(f"acq-{_label(case, 'acq-')}")  # subject and session do not make this case unique
    return Names(safe, person if alone else safe, "/".join([*entities, "anat"]), "_".join(stem))


def repeated_subjects(cases: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Find the subjects whose name does not tell their cases apart.

    Args:
        cases: all cases of the data list, not only those of this run, so that names do not depend on what is skipped.

    Returns:
        Safe names of subjects with more than one case, or whose name is another case's.

    Example:
        >>> cases = [{"case": "a_1", "subject": "a"}, {"case": "a_2", "subject": "a"}, {"case": "b_1", "subject": "b"}]
        >>> repeated_subjects(cases)
        frozenset({'a'})
    """
    rows = [(safe_name(str(row["case"])), safe_name(str(row.get("subject") or row["case"]))) for row in cases]
    count = Counter(subject.casefold() for _, subject in rows)
    owners = {case.casefold(): subject for case, subject in rows}
    return frozenset(s for _, s in rows if count[s.casefold()] > 1 or owners.get(s.casefold(), s) != s)


def check_unique(cases: Iterable[Mapping[str, Any]], layout: str, repeated: frozenset[str] | None) -> None:
    """Refuse a data list in which one case would overwrite another's files, also on a disk that ignores case.

    Args:
        cases: all cases of the data list, and those that lie in the folder, with the ``name`` of their files.
        layout: a key of `LAYOUTS`.
        repeated: from `repeated_subjects`.

    Raises:
        UsageError: naming the two cases.
    """
    owner: dict[str, str] = {}
    for row in cases:
        case = str(row["case"])
        names = names_of(case, str(row.get("subject") or ""), str(row.get("session") or ""), repeated=repeated)
        place = {"seed": row.get("name") or names.name, "flat": names.case, "bids": f"{names.anat}/{names.stem}"}[
            check_layout(layout)
        ]
        for key in {place.casefold(), f"case:{names.case.casefold()}"}:
            if key in owner:
                raise UsageError(
                    f"cases {owner[key]!r} and {case!r} would write the same files; "
                    "give each its own name, or choose another --output_dir"
                )
            owner[key] = case


def check_layout(layout: str) -> str:
    """Refuse a layout that does not exist.

    Args:
        layout: its name.

    Returns:
        The same name.

    Raises:
        UsageError: if there is none of that name.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"layout: wanted one of {', '.join(LAYOUTS)}, got {layout!r}")
    return layout


def inside(output_dir: Path, relative: str) -> Path:
    """Join a path to the output folder and refuse to leave it, also through a link.

    Args:
        output_dir: the folder.
        relative: a path inside it.

    Returns:
        The joined path.

    Raises:
        UsageError: if it would lie elsewhere.
    """
    path = Path(output_dir) / relative
    if not path.resolve().is_relative_to(Path(output_dir).resolve()):
        raise UsageError(
            f"{relative} would be written outside {output_dir}; remove the link or choose another output_dir"
        )
    return path


def safe_name(text: str) -> str:
    """Make a name that is a file name on every system; a name that had to be changed gets a mark of its own.

    Args:
        text: any name.

    Returns:
        Letters, digits and ``. _ + -``, beginning with a letter or digit, at most 69 characters.

    Example:
        >>> safe_name("sub-0001_ses-01")
        'sub-0001_ses-01'
        >>> safe_name("../../etc/passwd")
        'etc-passwd-3754d6cb'
    """
    clean = re.sub(r"[^A-Za-z0-9._+-]+", "-", text)
    clean = re.sub(r"\.{2,}", ".", clean)[:60].strip("._+-")
    return clean if clean and clean == text else f"{clean or 'case'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def camel(name: str) -> str:
    """Write a method's name as a BIDS label.

    Args:
        name: with underscores.

    Returns:
        The same in letters and digits.

    Example:
        >>> camel("integrated_gradients")
        'integratedGradients'
    """
    first, *rest = [part for part in re.split(r"[^A-Za-z0-9]+", name) if part] or ["map"]
    return first + "".join(part[0].upper() + part[1:] for part in rest)


def _label(text: str, prefix: str) -> str:
    """Keep the letters and digits of a BIDS label; one that had others in it gets a mark of its own."""
    bare = text.removeprefix(prefix)
    clean = re.sub(r"[^A-Za-z0-9]", "", bare)[:60]
    return clean if clean == bare else clean + hashlib.sha256(text.encode()).hexdigest()[:8]
