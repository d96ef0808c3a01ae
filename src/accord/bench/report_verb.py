"""``accord report``: a verb of ``accord.bench.cli``, in a file of its own."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from accord.errors import OptionError


@dataclass(frozen=True)
class ReportVerb:
    """Print the table of an experiment: metrics, mean rank, Δm, speed, certificates; or write a page with all of it."""

    experiment: Positional[Annotated[str, arg(metavar="EXPERIMENT")]]
    """Such as toy or qm9 (see `accord list`), or package.module:EXPERIMENT."""
    preset: str = "laptop"
    """Whose runs to show."""
    methods: Annotated[tuple[str, ...], arg(metavar="SPEC ...", help_behavior_hint="(default: all)")] = ()
    """Rows to show, such as stl ls nash-mtl; ranks are among them."""
    seeds: Annotated[tuple[int, ...], arg(metavar="SEED ...", help_behavior_hint="(default: all)")] = ()
    """Seeds to take into the means."""
    store: Annotated[Path, arg(metavar="FOLDER")] = Path("runs")
    """Where runs are kept."""
    format: Literal["table", "markdown", "csv", "json"] = "table"
    """table is for people, csv and json keep every digit."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write to a file instead of the terminal."""
    html: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write one HTML page with the table and all figures, which needs no network."""
    fronts: Annotated[
        tuple[str, str] | None,
        arg(metavar="TASK/METRIC TASK/METRIC", help_behavior_hint="(default: those that methods order least alike)"),
    ] = None
    """Two metrics that the page draws against each other."""

    def __call__(self) -> int:
        """Print or write."""
        from accord.bench import cli

        if self.html is not None and (self.out is not None or self.format != "table"):
            raise OptionError("report: --html writes a page of its own: leave out --format and --out, or --html")
        if self.fronts is not None and self.html is None:
            raise OptionError("report: --fronts chooses a figure of the HTML page: name the page's file with --html")
        if self.html is not None:
            from accord.bench.html import write_page

            store, experiment, only, baseline = self._chosen()
            write_page(self.html, store, experiment, self.preset, only, self.fronts, baseline, self.experiment)
            cli._say(f"written to {self.html}")
        else:
            self._table()
        return cli.OK

    def _table(self) -> None:
        """In one of its forms, to the terminal or to a file."""
        from accord.bench import cli, report, tables

        store, experiment, only, baseline = self._chosen()
        summary = report.summarise(store, experiment, self.preset, only, baseline, self.experiment)
        forms = {
            "table": lambda: tables.plain(summary),
            "markdown": lambda: tables.markdown(summary),
            "csv": lambda: report.frame(summary).write_csv(),
            "json": lambda: report.to_json(summary) + "\n",
        }
        cli._print(forms, self.format, self.out, lambda: tables.print_report(summary, cli._console()))

    def _chosen(self) -> tuple[Any, Any, Collection[Any] | None, str | None]:
        """The store, the experiment, which of its runs to take, and what to say where those have no baseline."""
        from accord.bench.experiments import load
        from accord.bench.reading import select
        from accord.bench.store import Store

        store, experiment = Store(self.store), load(self.experiment)
        chosen = self.methods or self.seeds
        only = select(store, experiment, self.preset, self.methods, self.seeds) if chosen else None
        without_baseline = "name stl among the methods" if self.methods else None
        if self.seeds and not self.methods:
            seeds = " ".join(map(str, self.seeds))
            command = f"accord run {shlex.quote(self.experiment)} --preset {self.preset} --methods stl --seeds {seeds}"
            without_baseline = f"`{command}`"
        return store, experiment, only, without_baseline
