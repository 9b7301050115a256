from __future__ import annotations

import ast
import subprocess
import sys

import medsal.scoring


def test_names_are_listed_once_and_are_what_they_say_whatever_was_imported_before():
    from medsal.scoring import table, verification

    assert sorted(medsal.scoring.__all__) == sorted(medsal.scoring._HOMES)
    assert medsal.scoring.verify is verification.verify
    assert medsal.scoring.read_scores is table.read_scores
    modules = set(medsal.scoring._HOMES.values())
    assert not modules & set(medsal.scoring.__all__)  # a module would hide the function of its name


def test_naming_the_package_and_asking_for_the_version_load_nothing_heavy(repository):
    code = (
        "import sys, medsal.scoring, medsal.cli\n"
        "try: medsal.cli.main(['--version'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'pandas', 'numpy', 'monai', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout.splitlines()[-1]) == []
