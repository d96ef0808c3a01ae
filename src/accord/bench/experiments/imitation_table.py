"""``mt10-imitation`` with equal and with spread loss scales, side by side.

``python -m accord.bench.experiments.imitation_table --store runs`` prints Markdown, from the finished runs of a preset
and its ``-spread`` twin.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from accord.bench.report import Value
from accord.bench.rl.imitation import DATA
from accord.bench.rl.success import method_of
from accord.bench.spec import Experiment
from accord.bench.store import Run, Store
from accord.errors import AccordError, StoreError, UnknownNameError

Found = Mapping[str, Mapping[int, Mapping[str, float]]]
"""``{method: {seed: {"task/metric": value}}}``, of seeds that have every metric."""


@dataclass(frozen=True)
class Line:
    """One method; what has no runs is None.

    Attributes:
        method: Its spec; ``"stl"`` for one network a task.
        equal: Success with equal scales, the mean over tasks, as mean and standard error over seeds.
        equal_seeds: How many.
        spread: The same with spread scales.
        spread_seeds: How many.
        worst_ratio: The largest over tasks of mse with spread scales over mse with equal ones, over the seeds that have
            both; 1 where the spread changes nothing.
    """

    method: str
    equal: Value | None
    equal_seeds: int
    spread: Value | None
    spread_seeds: int
    worst_ratio: Value | None


def side_by_side(equal: Iterable[Run], spread: Iterable[Run], experiment: Experiment) -> list[Line]:
    """One line a method, in the experiment's order.

    Args:
        equal: Finished runs with equal scales.
        spread: Finished runs with spread scales.
        experiment: Its tasks are averaged over.
    """
    first, second = _collect(equal, experiment), _collect(spread, experiment)
    order = {method: place for place, method in enumerate(experiment.methods)}
    methods = sorted({*first, *second}, key=lambda method: (order.get(method, len(order)), method))
    tasks = [task.name for task in experiment.tasks]
    lines = []
    for method in methods:
        one, other = first.get(method, {}), second.get(method, {})
        ratios = [
            max(other[seed][f"{task}/mse"] / one[seed][f"{task}/mse"] for task in tasks)
            for seed in sorted(set(one) & set(other))
        ]
        lines.append(
            Line(method, _success(one, tasks), len(one), _success(other, tasks), len(other), _value(ratios)),
        )
    return lines


def markdown(lines: Sequence[Line], spread: float) -> str:
    """The table, with what it is below it.

    Args:
        lines: As ``side_by_side`` gives them.
        spread: The largest loss scale over the smallest.
    """
    text = [
        f"| method | success, equal scales ↑ | success, {spread:g}:1 ↑ | worst task's mse ratio ↓ | seeds |",
        "|:--|--:|--:|--:|--:|",
    ]
    for line in lines:
        seeds = str(line.equal_seeds) if line.equal_seeds == line.spread_seeds else None
        cells = [
            line.method.replace("|", "\\|"),
            _cell(line.equal),
            _cell(line.spread),
            _cell(line.worst_ratio, places=2),
            seeds or f"{line.equal_seeds}, {line.spread_seeds}",
        ]
        text.append(f"| {' | '.join(cells)} |")
    text += [
        "",
        f"This is {DATA}. Success is the mean over tasks; means over seeds ± standard error of the mean. The ratio is, "
        "for each seed, the largest over tasks of the error on held-out demonstrations with scales spread "
        f"{spread:g}:1 over that with equal scales.",
    ]
    return "\n".join(text) + "\n"


def table(store: Store, experiment: Experiment, preset: str = "laptop") -> str:
    """The Markdown table of a preset and its ``-spread`` twin.

    Raises:
        UnknownNameError: The experiment has no such pair of presets.
        StoreError: The store has no finished runs of either.
    """
    twin = f"{preset}-spread"
    if preset not in experiment.presets or twin not in experiment.presets:
        pairs = [name for name in experiment.presets if f"{name}-spread" in experiment.presets]
        raise UnknownNameError(f"{experiment.name} has no presets {preset!r} and {twin!r}; pairs: {', '.join(pairs)}")
    every = [store.runs(experiment.name, experiment.version, name) for name in (preset, twin)]
    equal, spread = ([run for run in runs if run.status == "done"] for runs in every)
    lines = side_by_side(equal, spread, experiment)
    if not lines:
        raise StoreError(
            f"store {store.root} has no method with finished runs of {experiment.name} (version {experiment.version}): "
            f"`accord run {experiment.name} --preset {preset}`, then --preset {twin}"
        )
    return markdown(lines, experiment.presets[twin].spread)


def _collect(runs: Iterable[Run], experiment: Experiment) -> Found:
    """Metrics by method and seed; the runs of single-task learning together."""
    found: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        found[method_of(run)][run.key.seed] |= run.result()["metrics"]
    needed = {name for name, _ in experiment.metrics}
    whole = {m: {s: values for s, values in per.items() if needed <= set(values)} for m, per in found.items()}
    return {method: per for method, per in whole.items() if per}


def _success(seeds: Mapping[int, Mapping[str, float]], tasks: Sequence[str]) -> Value | None:
    return _value([sum(values[f"{task}/success"] for task in tasks) / len(tasks) for values in seeds.values()])


def _value(samples: Sequence[float]) -> Value | None:
    return Value.of(samples) if samples else None


def _cell(value: Value | None, places: int = 3) -> str:
    if value is None:
        return ""
    return f"{value.mean:.{places}f}" + ("" if value.error is None else f" ± {value.error:.{places}f}")


@dataclass(frozen=True)
class Command:
    """Print success with equal and with spread loss scales, a row a method, as Markdown."""

    store: Path = Path("runs")
    """Where runs are kept."""
    preset: str = "laptop"
    """laptop or paper; its twin is laptop-spread or paper-spread."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 2 if what was asked for is not there."""
    import tyro

    from accord.bench.experiments.mt10_imitation import EXPERIMENT

    command = tyro.cli(Command, args=arguments, prog="python -m accord.bench.experiments.imitation_table")
    try:
        text = table(Store(command.store), EXPERIMENT, command.preset)
    except AccordError as error:
        print(f"accord: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
