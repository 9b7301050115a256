"""A dataset whose broken cases do not stop the others, and the batches that carry both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monai.data import Dataset, list_data_collate

from medsal.data.names import without_paths
from medsal.errors import InputError, UsageError

__all__ = ["CaseDataset", "Failures", "collate_cases", "saved_meta"]

_KEPT = ("case", "subject", "session", "label", "label_name")


class CaseDataset(Dataset):  # type: ignore[misc]  # MONAI is untyped
    """A MONAI dataset of cases; one that cannot be loaded or transformed comes back as a failure.

    A failure holds case, subject, session, label, label_name and ``error``, one line that says what was wrong. Only a
    `UsageError` (the configuration is wrong, not the case) is raised. A case whose reader found something wrong with it
    says so under ``fault`` and is a failure at once.

    Args:
        data: case dictionaries, as `medsal.data.mri_cases` gives them.
        transform: what loads and prepares a case.

    Example:
        >>> cases = CaseDataset([{"case": "sub-1", "image": "absent.nii"}], lambda case: open(case["image"]))
        >>> cases[0]["error"]
        "cannot be prepared (FileNotFoundError: [Errno 2] No such file or directory: 'absent.nii')"
    """

    def _transform(self, index: int) -> Any:
        case = self.data[index]
        if case.get("fault"):
            return _failure(case, case["fault"])
        try:
            return self.transform(case)
        except Exception as error:  # whatever is wrong with one case, the others go on
            cause = _cause(error)
            if isinstance(cause, UsageError):
                raise cause from error
            return _failure(case, _one_line(cause, case))


def _failure(case: Mapping[str, Any], error: str) -> dict[str, Any]:
    return {**{key: case[key] for key in _KEPT if key in case}, "error": error}


class Failures:
    """The failures of a batch, a sequence of dictionaries that ``decollate_batch`` hands on whole to each case.

    MONAI takes a list in a batch for one value per case; this is no list, so it is never cut up.

    Args:
        entries: one dictionary per failure: case, subject, session, error and, where known, label and label_name.
    """

    ndim = 0  # for decollate_batch: a single value

    def __init__(self, entries: Sequence[Mapping[str, Any]] = ()) -> None:
        self.entries = [dict(entry) for entry in entries]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.entries[index]

    def __repr__(self) -> str:
        return f"Failures({self.entries})"

    def item(self) -> Failures:
        """The single value that this is.

        Returns:
            itself.
        """
        return self


def collate_cases(batch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a batch of the cases that are well, and name the others.

    Args:
        batch: items of a `CaseDataset`.

    Returns:
        what MONAI's ``list_data_collate`` makes of the good cases (nothing where there is none), and ``"failures"``, a
        `Failures` with one dictionary per failed case.

    Example:
        >>> batch = collate_cases([{"case": "a", "label": 1}, {"case": "b", "error": "cut off"}])
        >>> batch["case"], [failure["error"] for failure in batch["failures"]]
        (['a'], ['cut off'])
    """
    good = [case for case in batch if "error" not in case]
    failures = Failures([case for case in batch if "error" in case])
    return {**(list_data_collate(good) if good else {}), "failures": failures}


def saved_meta(batch: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What MONAI's savers may know of the images of a batch: not the file's name where the case is anonymous.

    Args:
        batch: decollated cases.

    Returns:
        one meta dictionary per case; ``filename_or_obj`` is an anonymous case's own name.
    """
    return [
        {**case["image"].meta, **({"filename_or_obj": str(case["case"])} if case.get("anonymous") else {})}
        for case in batch
    ]


def _chain(error: BaseException) -> Iterator[BaseException]:
    step: BaseException | None = error
    while step is not None:
        yield step
        step = step.__cause__ or step.__context__


def _cause(error: BaseException) -> BaseException:
    """The first error of ours in the chain, or else where the chain began: MONAI wraps each in a RuntimeError."""
    chain = list(_chain(error))
    ours = [step for step in chain if isinstance(step, (InputError, UsageError))]
    return ours[0] if ours else chain[-1]


def _one_line(error: BaseException, case: Mapping[str, Any]) -> str:
    text = " ".join(str(error).split())
    if not isinstance(error, InputError):
        text = f"cannot be prepared ({type(error).__name__}: {text})"
    return without_paths(text, dict(case)) if case.get("anonymous") else text
