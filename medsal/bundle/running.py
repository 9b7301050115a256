"""The ``run`` and ``finalize`` steps of a config."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from medsal.bundle.exits import ALL_FAILED, SOME_FAILED, CasesFailedError, reason
from medsal.errors import MedsalError, UsageError

if TYPE_CHECKING:
    from medsal.engines import AttributionEvaluator
    from medsal.handlers import ExplanationExporter
    from medsal.ledger import Outcome

_LOG = logging.getLogger("medsal")
_SHOWN = 3


def run_cases(evaluator: AttributionEvaluator, exporter: ExplanationExporter) -> Outcome:
    """Explain all cases and close the run, also when it is interrupted or the disk is full.

    Args:
        evaluator: the engine.
        exporter: the exporter among its handlers.

    Returns:
        What became of the cases.

    Raises:
        UsageError: if an option, the configuration or the weights are wrong.
        CasesFailedError: if nothing can be written any more.
        KeyboardInterrupt: if the user stopped the run; ``run.json`` says so.
    """
    try:
        with terminable():
            evaluator.run()
    except KeyboardInterrupt:
        exporter.finish(interrupted=True)
        raise
    except UsageError:
        raise
    except MedsalError as error:
        outcome = exporter.ledger.outcome()
        code = SOME_FAILED if outcome.count("done") else ALL_FAILED
        raise CasesFailedError(f"{reason(error)}; {outcome.count('done')} finished cases stay", code) from error
    return exporter.finish()


@contextmanager
def terminable() -> Iterator[None]:
    """Let a request to terminate (SIGTERM) end a run as an interrupt does: with its ``run.json`` and exit code 130.

    Yields:
        Nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_run(exporter: ExplanationExporter) -> None:
    """Say in one line how the run ended, as the last step of a config's ``finalize``.

    Args:
        exporter: the exporter, after ``run_cases``.

    Raises:
        CasesFailedError: if cases failed; at the top of a command line it becomes exit code 4 or 5.
    """
    from medsal.ledger import rank

    outcome = exporter.finish()
    if rank() != 0:
        return
    folder = exporter.ledger.output_dir
    done, total = outcome.count("done"), len(outcome.cases)
    line = f"{done} of {total} cases done" + (f" ({outcome.skipped} of them before)" if outcome.skipped else "")
    bad = [case for case, status in outcome.cases.items() if status != "done"]
    if not bad:
        sys.stderr.write(f"medsal: {line}; results in {folder}\n")
        return
    shown = [f"{case}: {exporter.ledger.read(case).get('error') or 'not reached'}" for case in bad[:_SHOWN]]
    more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    raise CasesFailedError(
        f"{line}, {len(bad)} failed: {'; '.join(shown)}{more}; see {folder / 'run.json'}", outcome.exit_code
    )
