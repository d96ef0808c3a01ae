"""``accord study``: a verb of ``accord.bench.cli``, in a file of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

Seeds = Annotated[tuple[int, ...], arg(metavar="SEED ...")]
Folder = Annotated[Path, arg(metavar="FOLDER")]


@dataclass(frozen=True)
class StudyVerb:
    """Answer a question about the methods: what the store has not is run first, then the table and the figures.

    Without a name: the list of all studies. The exit code is 1 if any run failed.
    """

    study: Positional[Annotated[str, arg(metavar="STUDY")]] = ""
    """Such as update-every."""
    experiment: Annotated[str | None, arg(metavar="EXPERIMENT", help_behavior_hint="(default: the study's own)")] = None
    """Such as qm9 (see `accord list`), or package.module:EXPERIMENT."""
    preset: str = "laptop"
    """smoke (seconds), laptop (minutes a method) or paper (the published protocol)."""
    seeds: Seeds = (0,)
    """One run a method for each."""
    store: Folder = Path("runs")
    """Where runs are kept."""
    jobs: int = 1
    """How many runs to train at a time; times are truest with 1."""
    fresh: bool = False
    """Discard earlier runs of these methods and seeds, and start anew."""
    format: Literal["table", "markdown", "json"] = "table"
    """table is for people, json keeps every digit."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write to a file instead of the terminal."""

    def __call__(self) -> int:
        """Run, print, draw."""
        from accord.bench import cli, studies
        from accord.bench.progress import shown
        from accord.bench.store import figures_folder
        from accord.bench.studies import text

        if not self.study:
            text.print_list(cli._console())
            return cli.OK
        study = studies.load(self.study)
        experiment = self.experiment or study.experiment
        progress = shown(cli._console(stderr=True))
        try:
            report = studies.run_study(
                study, experiment, self.preset, self.seeds, self.store, self.jobs, self.fresh, progress
            )
        except KeyboardInterrupt:
            without = " (without --fresh)" if self.fresh else ""
            cli._say(f"stopped; what is done is kept, and the same command{without} goes on from the checkpoints")
            return cli.INTERRUPTED
        forms = {name: partial(form, report) for name, form in text.FORMS.items()}
        cli._print(forms, self.format, self.out, lambda: text.print_study(report, cli._console()))
        folder = figures_folder(self.store, report.experiment.name, self.preset) / "studies"
        paths = studies.draw_study(report, folder)
        if paths:
            cli._say(f"figures in {folder}: {', '.join(path.name for path in paths)}")
        for outcome in report.failed:
            cli._say(f"{outcome.key.method} seed {outcome.key.seed} failed: {outcome.cause}")
        return cli.FAILED if report.failed else cli.OK
