from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from medsal.errors import MedsalError
from medsal.files import json_bytes, write_file


def full_disk(file):
    """Write a little, then find the disk full."""
    file.write(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "map.nii.gz"
    write_file(path, b"whole")
    with pytest.raises(MedsalError, match=r"cannot write .*map\.nii\.gz: No space left on device; free some") as caught:
        write_file(path, full_disk)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MedsalError, match="cannot write"):
        write_file(tmp_path / "file" / "map.png", b"x")


def test_other_errors_pass_and_leave_nothing(tmp_path):
    def broken(file):
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        write_file(tmp_path / "a", broken)
    assert not list(tmp_path.iterdir())


def test_nobody_sees_half_a_file(tmp_path):
    path = tmp_path / "deep" / "map.png"

    def looking(file):
        file.write(b"x" * 100_000)
        assert not path.exists()

    write_file(path, looking)
    assert path.stat().st_size == 100_000


def test_a_killed_run_leaves_a_temporary_name_that_can_be_told(tmp_path):
    path = tmp_path / "map.png"
    code = (
        "import os, sys; from pathlib import Path; from medsal.files import write_file;"
        "write_file(Path(sys.argv[1]), lambda file: (file.write(b'half'), file.flush(), os._exit(9)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=120).returncode == 9
    (left,) = tmp_path.iterdir()
    assert re.fullmatch(r"\.[0-9a-f]{12}\.part", left.name)


def test_json_holds_no_number_that_readers_refuse():
    value = {"a": [float("inf"), np.float32(0.5), np.arange(2)], "b": {1, 2}, "c": (None, True)}
    assert json.loads(json_bytes(value)) == {"a": [None, 0.5, [0, 1]], "b": [1, 2], "c": [None, True]}
