"""The command ``accord``: one frozen dataclass a verb; its fields are the options, their comments the help.

Torch and the like are imported by the verbs that need them, so that ``accord --help`` is quick.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import accord
from accord.errors import AccordError, DependencyError, UnknownNameError

try:
    import tyro
    from tyro.conf import Positional, arg, subcommand
except ModuleNotFoundError as missing:
    # a script has no one to catch an error here, and a traceback would hide what to do
    print(f"accord: the command line needs the package {missing.name!r}: pip install 'accord[bench]'", file=sys.stderr)
    raise SystemExit(2) from missing

from accord.bench.report_verb import ReportVerb
from accord.bench.reproduce_verb import ReproduceVerb
from accord.bench.study_verb import StudyVerb
from accord.bench.video_verb import VideoVerb

if TYPE_CHECKING:
    from rich.console import Console

Name = Annotated[str, arg(metavar="EXPERIMENT")]
Specs = Annotated[tuple[str, ...], arg(metavar="SPEC ...", help_behavior_hint="(default: the experiment's own list)")]
Seeds = Annotated[tuple[int, ...], arg(metavar="SEED ...")]
Folder = Annotated[Path, arg(metavar="FOLDER")]

OK, FAILED, WRONG, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 130, 141


@dataclass(frozen=True)
class List:
    """Show the experiments with their presets, and the methods."""

    def __call__(self) -> int:
        """Print two tables."""
        from accord.bench.listing import print_experiments, print_methods

        console = _console()
        print_experiments(console)
        print_methods(console)
        return OK


@dataclass(frozen=True)
class Run:
    """Train methods × seeds of an experiment, then print its table.

    What is done is skipped, what was interrupted goes on from its last checkpoint to the same numbers, and
    what failed is tried again. The exit code is 1 if any run failed.
    """

    experiment: Positional[Name]
    """Such as toy or qm9 (see `accord list`), or package.module:EXPERIMENT."""
    preset: str = "laptop"
    """smoke (seconds), laptop (minutes) or paper (the published protocol)."""
    methods: Specs = ()
    """Such as nash-mtl cagrad:c=0.5 stl (one run per task)."""
    seeds: Seeds = (0,)
    """One run a method for each."""
    store: Folder = Path("runs")
    """Where runs are kept."""
    jobs: int = 1
    """How many runs to train at a time, each in a process of its own."""
    fresh: bool = False
    """Discard earlier runs of these methods and seeds, and start anew."""
    report: bool = True
    """Whether to print the table and draw the figures at the end."""

    def __call__(self) -> int:
        """Run, then report."""
        from accord.bench.experiments import load
        from accord.bench.progress import shown
        from accord.bench.runner import run

        experiment = load(self.experiment)
        try:
            outcomes = run(
                experiment,
                self.preset,
                self.methods or None,
                self.seeds,
                self.store,
                self.jobs,
                self.fresh,
                shown(_console(stderr=True)),
            )
        except KeyboardInterrupt:
            without = " (without --fresh)" if self.fresh else ""
            _say(f"stopped; what is done is kept, and the same command{without} goes on from the checkpoints")
            return INTERRUPTED
        failed = [outcome for outcome in outcomes if outcome.status == "failed"]
        elsewhere = [outcome for outcome in outcomes if outcome.status == "elsewhere"]
        if self.report:
            ReportVerb(self.experiment, self.preset, store=self.store)()
            Plot(self.experiment, self.preset, self.store)()
        if elsewhere:
            _say(f"{len(elsewhere)} of {len(outcomes)} runs are being trained by another process")
        if failed:
            _say(
                f"{len(failed)} of {len(outcomes)} runs failed; failure.json in their folders holds the "
                "tracebacks, and the same command tries them again"
            )
        return FAILED if failed else OK


@dataclass(frozen=True)
class Plot:
    """Draw the figures of an experiment: Δm, task weights and conflict over time, and its own."""

    experiment: Positional[Name]
    """Such as toy or qm9 (see `accord list`), or package.module:EXPERIMENT."""
    preset: str = "laptop"
    """Whose runs to draw."""
    store: Folder = Path("runs")
    """Where runs are kept."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """Where the figures go; by default STORE/figures/EXPERIMENT-PRESET."""
    format: Literal["png", "svg"] = "png"
    """Kind of image."""

    def __call__(self) -> int:
        """Draw, and say where."""
        from accord.bench.experiments import load
        from accord.bench.plots import draw
        from accord.bench.store import Store, figures_folder

        experiment = load(self.experiment)
        folder = self.out or figures_folder(self.store, experiment.name, self.preset)
        paths = draw(Store(self.store), experiment, self.preset, folder, self.format)
        if paths:
            print(f"figures in {folder}: {', '.join(path.name for path in paths)}")
        else:
            print("nothing to draw yet: the figures need a multi-task run that is done")
        return OK


@dataclass(frozen=True)
class Solve:
    """Task weights for one Gramian G = J Jᵀ, with their certificate."""

    gramian: Positional[Annotated[str, arg(metavar="FILE")]]
    """A K × K matrix as .npy or as text (commas or blanks); - reads it from standard input."""
    method: Annotated[str, arg(metavar="SPEC")] = "nash-mtl"
    """A method that needs the Gramian alone, such as nash-mtl, fairgrad:alpha=2, mgda or cagrad:c=0.4."""
    format: Literal["table", "json"] = "table"
    """json for programs."""

    def __call__(self) -> int:
        """Solve and print."""
        from accord.bench.solve import print_solution, read_gramian, solve, to_json

        matrix = read_gramian(self.gramian)
        solution = solve(matrix, self.method)
        if self.format == "json":
            print(to_json(self.method, matrix, solution))
        else:
            print_solution(self.method, matrix, solution, _console())
        return OK


@dataclass(frozen=True)
class Doctor:
    """Say what is installed and found here: versions, devices, data, store."""

    store: Folder = Path("runs")
    """Which store to look at."""

    def __call__(self) -> int:
        """Print the findings; exit code 1 when something is broken."""
        from accord.bench.doctor import examine, print_findings

        findings = examine(self.store)
        print_findings(findings, _console())
        return FAILED if any(finding.status == "broken" for finding in findings) else OK


@dataclass(frozen=True)
class Data:
    """Check a folder of data: what is missing, of the wrong shape or value, cut off, or a pickle.

    Every file is read, and no pickle is ever loaded. The exit code is 1 if something is wrong.
    """

    action: Positional[Annotated[Literal["check"], arg(metavar="check")]]
    """All that can be done with data."""
    path: Positional[Folder]
    """Where the data set is."""
    dataset: Annotated[str | None, arg(metavar="NAME")] = None
    """nyuv2, cityscapes, celeba, idx or qm9; by default what the folder looks like."""

    def __call__(self) -> int:
        """Read everything, print the findings."""
        from accord.bench.data.check import check, passed, print_findings

        with _console(stderr=True).status("reading every file") as status:
            count = itertools.count(1)
            findings = check(self.path, self.dataset, lambda: status.update(f"{next(count):,} files read"))
        print_findings(findings, _console())
        return OK if passed(findings) else FAILED


@dataclass(frozen=True)
class Completion:
    """Print a script that completes verbs and options in your shell; docs/guides/install.md says where to put it."""

    shell: Positional[Annotated[Literal["bash", "zsh", "fish"], arg(metavar="SHELL")]]
    """bash, zsh or fish."""

    def __call__(self) -> int:
        """Print it."""
        _parse(["--tyro-print-completion", self.shell])  # prints, and leaves by SystemExit as --help does
        return OK


Verb = (
    Annotated[List, subcommand("list")]
    | Annotated[Run, subcommand("run")]
    | Annotated[ReportVerb, subcommand("report")]
    | Annotated[Plot, subcommand("plot")]
    | Annotated[ReproduceVerb, subcommand("reproduce")]
    | Annotated[StudyVerb, subcommand("study")]
    | Annotated[VideoVerb, subcommand("video")]
    | Annotated[Data, subcommand("data")]
    | Annotated[Solve, subcommand("solve")]
    | Annotated[Doctor, subcommand("doctor")]
    | Annotated[Completion, subcommand("completion")]
)
VERBS = ("list", "run", "report", "plot", "reproduce", "study", "video", "data", "solve", "doctor", "completion")


def main(argv: Sequence[str] | None = None) -> int:
    """The command ``accord``.

    Args:
        argv: The arguments; those of the process by default.

    Returns:
        The exit code: 0, 1 (a run failed), 2 (a wrong argument or an error that accord explains), 130
        (interrupted) or 141 (the reader of the output has gone).
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _parse(args or ["--help"])()
        sys.stdout.flush()
        return code
    except AccordError as error:
        _say(f"accord: {error}")
        return WRONG
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which must not fail again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def _parse(args: list[str]) -> Verb:
    if args == ["--version"]:
        print(f"accord {accord.__version__}")
        raise SystemExit(OK)
    if not args[0].startswith("-") and args[0] not in VERBS:
        from accord.balancers.registry import suggest

        raise UnknownNameError(f"unknown verb {args[0]!r}{suggest(args[0], VERBS)} (`accord --help` shows all)")
    return tyro.cli(
        Verb,
        prog="accord",
        description="Exact gradient balancing for multi-task learning: run, compare and inspect.",
        args=args,
        config=(tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def _print(forms: Mapping[str, Callable[[], str]], form: str, out: Path | None, to_terminal: Callable[[], None]) -> int:
    """A text in one of its forms, to the terminal or to a file; "table" has a way of its own to the terminal."""
    from accord.bench.files import write_atomic

    if out is not None:
        write_atomic(out, forms[form]().encode())
        _say(f"written to {out}")
    elif form == "table":
        to_terminal()
    else:
        print(forms[form](), end="")
    return OK


def _console(stderr: bool = False) -> Console:
    """A console that is as wide as the terminal, or wide enough for any table where there is none."""
    try:
        from rich.console import Console
    except ModuleNotFoundError as error:
        raise DependencyError("the command line needs rich: pip install 'accord[bench]'") from error
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() or "COLUMNS" in os.environ else 240)


def _say(text: str) -> None:
    """One message for people, beside the output that programs read."""
    print(text, file=sys.stderr)
