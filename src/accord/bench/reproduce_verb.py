"""``accord reproduce``: a verb of ``accord.bench.cli``, in a file of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

Rows = Annotated[tuple[str, ...], arg(metavar="ROW ...", help_behavior_hint="(default: all rows)")]
Seeds = Annotated[tuple[int, ...], arg(metavar="SEED ...")]
Folder = Annotated[Path, arg(metavar="FOLDER")]


@dataclass(frozen=True)
class ReproduceVerb:
    """Put a published table or figure beside ours: what the store has not is run first.

    Without an id: the list of all tables and figures. Ours are means over all seeds in the store. The exit code is
    1 if any run failed.
    """

    item: Positional[Annotated[str, arg(metavar="ID")]] = ""
    """Such as nash-mtl/table-2."""
    preset: str = "laptop"
    """Of the experiment: smoke (seconds), laptop (minutes) or paper (the published protocol)."""
    methods: Rows = ()
    """Run these rows only, by their name in the table or as method specs."""
    seeds: Seeds = (0,)
    """One run a method for each."""
    store: Folder = Path("runs")
    """Where runs are kept."""
    jobs: int = 1
    """How many runs to train at a time, each in a process of its own."""
    on: Annotated[str | None, arg(metavar="EXPERIMENT")] = None
    """Other data under the same columns, such as rooms in the place of nyuv2."""
    run: bool = True
    """Whether to run what is missing; --no-run shows what the store has."""
    format: Literal["table", "markdown", "csv", "json"] = "table"
    """table is for people, csv and json keep every digit."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write to a file instead of the terminal."""

    def __call__(self) -> int:
        """Run, print, draw."""
        from accord.bench import cli, published, reproduce, reproduce_list, reproduce_text
        from accord.bench.progress import shown

        if not self.item:
            listed = reproduce_list.FORMS
            return cli._print(listed, self.format, self.out, lambda: reproduce_list.print_table(cli._console()))
        item = published.load(self.item)
        if self.run:
            reproduce_text.check_form(item, self.format)  # before hours of work, not after
            progress = shown(cli._console(stderr=True))
            try:
                side = reproduce.reproduce(
                    item, self.preset, self.methods, self.seeds, self.store, self.jobs, self.on, progress
                )
            except KeyboardInterrupt:
                cli._say("stopped; what is done is kept, and the same command goes on from the checkpoints")
                return cli.INTERRUPTED
        else:
            side = reproduce.side_by_side(item, self.preset, self.store, self.on)
        side = reproduce.draw_pictures(side, self.store)
        forms = {name: partial(form, side) for name, form in reproduce_text.FORMS.items()}
        cli._print(forms, self.format, self.out, lambda: reproduce_text.print_side_by_side(side, cli._console()))
        failed = [outcome for outcome in side.outcomes if outcome.status == "failed"]
        for outcome in failed:
            cli._say(f"{outcome.key.method} seed {outcome.key.seed} failed: {outcome.cause}")
        return cli.FAILED if failed else cli.OK
