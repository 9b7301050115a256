"""What a study leaves: tables, verdicts and figures, written from the files of its steps."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from medsal.files import write_file
from medsal.studies.trust.tables import all_tables
from medsal.studies.trust.verdicts import Rule, pair_summary, render, verdicts

if TYPE_CHECKING:
    import pandas as pd

    from medsal.studies.trust.studied import Studied

_LOG = logging.getLogger("medsal")


def write_results(study: Studied) -> dict[str, pd.DataFrame]:
    """Make the tables, verdicts and figures of a study whose steps are done, and write them.

    Args:
        study: the study.

    Returns:
        Name -> table: ``left_out`` (items that are no case), ``networks``, ``blocks``, ``passes``, ``random_pairs``,
        ``utility``, ``pairs``, ``pair_summary``, ``states``, ``randomisation``, ``curves`` and ``verdicts``, as far as
        its parts go.
    """
    rule = Rule(study.settings.alike, study.settings.level, study.settings.resamples)
    tables = all_tables(study)
    if len(tables.get("pairs", ())):
        tables["pair_summary"] = pair_summary(tables["pairs"], tables["networks"], rule)
    tables["verdicts"] = verdicts(tables, study.explainers.names, rule)
    folder = study.records.folder
    for name, table in tables.items():
        if not len(table):  # of one network there is no pair
            continue
        write_file(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n").encode())
    if study.settings.figures:
        from medsal.studies.trust.figures import draw_curves, draw_pairs

        if "curves" in tables:
            pictures = draw_curves(tables["curves"], tables["states"], tables["random_pairs"])
            for name, picture in pictures.items():
                write_file(folder / "figures" / f"randomisation-{name}.png", picture)
        if "pair_summary" in tables:
            write_file(folder / "figures" / "pairs.png", draw_pairs(tables["pair_summary"]))
    text = render(tables["verdicts"])
    write_file(folder / "verdicts.txt", f"{text}\n".encode())
    _LOG.info("%s\n(yes or no with the estimate; n.t.: not testable; details in %s)", text, folder / "verdicts.csv")
    last = tables["passes"].iloc[-1]
    _LOG.info(
        "%.0f passes, where a loop without sharing takes %.0f: ratio %.1f", last["passes"], last["passes_of_the_loop"],
        last["ratio"],
    )  # fmt: skip
    return tables
