"""What MONAI does not look at: versions in the metadata, and values that only look right."""

from __future__ import annotations

from typing import Any

import pytest

from medsal.bundle.requirements import check_meaning, check_versions
from medsal.errors import UsageError


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"monai_version": "9.9.9"}, r"needs monai 9\.9\.9 or newer, installed is 1\."),
        ({"monai_version": "1.10.0"}, r"needs monai 1\.10\.0"),  # larger than 1.6.1, although not as text
        ({"required_packages_version": {"nosuchpkg": "1.0"}}, r"needs nosuchpkg 1\.0; it is not installed"),
        ({"required_packages_version": {"nibabel": "99"}}, "needs nibabel 99"),
    ],
)
def test_a_bundle_that_needs_more_than_there_is_is_refused(meta: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_versions(meta)


@pytest.mark.parametrize("meta", [{}, {"monai_version": "1.4.0", "required_packages_version": {"nibabel": "3.0"}}])
def test_what_is_there_is_enough(meta: dict[str, Any]) -> None:
    check_versions(meta)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"a": [{"_target_": "x", "_disabled_": "yes"}]}, "a::0::_disabled_: wanted true or false, got 'yes'"),
        ({"imports": ["$from a import b, c"]}, r"imports::0: of .* MONAI imports the first name only"),
        ({"imports": ["$import a, b"]}, "one import per name"),
        ({"lr": {"value": "1e-3"}}, r"lr::value: '1e-3' is text, not a number; in YAML write 0\.001"),
    ],
)
def test_a_value_that_reads_like_something_else_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_meaning(config)


def test_what_means_what_it_says_is_taken() -> None:
    check_meaning(
        {
            "a": {"_disabled_": "True"},
            "b": {"_disabled_": "$@c"},
            "i": ["$from a import b", "$(1, 2)"],
            "c": 1e-3,
            "d": "1e-3x",
            "_meta_": {"v": "1e3"},
        }
    )
