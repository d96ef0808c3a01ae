"""What is said about success: over seeds first, then the best; intervals; curves."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from accord.bench.rl.curves import draw
from accord.bench.rl.success import interquartile_mean, successes
from accord.bench.spec import MethodSpec, RunKey

TASKS = ("reach-v3", "push-v3")


@dataclass
class Made:
    """A finished run as ``successes`` sees it: {task: success at each evaluation}, ten steps apart."""

    method: str
    seed: int
    curves: dict[str, list[float]]
    pauses: bool = False  # records without an evaluation between the others
    key: RunKey = field(init=False)

    def __post_init__(self):
        self.key = RunKey("mt:reach-v3,push-v3", 1, "laptop", MethodSpec.parse(self.method), self.seed)

    def records(self):
        found = []
        for unit, values in enumerate(zip(*self.curves.values(), strict=True), 1):
            if self.pauses:
                found.append({"unit": unit, "env_steps": 10 * len(self.curves) * unit - 5, "metrics": None})
            metrics = {f"{task}/success": value for task, value in zip(self.curves, values, strict=True)}
            found.append({"unit": unit, "env_steps": 10 * len(self.curves) * unit, "metrics": metrics})
        return found


def both(method, seed, reach, push, **given):
    return Made(method, seed, {"reach-v3": reach, "push-v3": push}, **given)


def single(seed, **curves):
    return [Made(f"stl:task={task}-v3", seed, {f"{task}-v3": values}) for task, values in curves.items()]


def only(runs, tasks=TASKS):
    [found] = successes(runs, tasks)
    return found


def test_the_best_average_is_over_seeds_first():
    runs = [both("ls", 0, [1, 0, 1], [1, 0, 0]), both("ls", 1, [0, 0, 1], [0, 1, 1])]
    found = only(runs)
    assert found.curves.tolist() == [[1, 0, 0.5], [0, 0.5, 1]]
    assert (found.best, found.best_at) == (0.75, 60)  # not 1, which is each seed's own best
    assert found.seeds == 2
    assert found.last.mean == 0.75
    assert found.last.error == pytest.approx(np.std([0.5, 1], ddof=1) / np.sqrt(2))


def test_solved_counts_the_seeds_that_had_every_task_at_one_evaluation():
    half = [both("ls", 0, [1, 0], [0, 1]), both("ls", 1, [0.95, 0.5], [1, 1])]  # each task once, never both
    assert only(half).solved == 0
    assert only([*half, both("ls", 2, [1, 1, 0], [0, 1, 0])]).solved == 1
    assert "all tasks solved at some evaluation by 1 of 3" in str(only([*half, both("ls", 2, [1, 1], [0, 1])]))


def test_of_equal_evaluations_the_first_is_the_best():
    assert only([both("ls", 0, [0, 1, 1], [0, 0, 0])]).best_at == 40


def test_records_without_an_evaluation_are_passed_over():
    whole, paused = (only([both("ls", 0, [0, 1], [1, 1], pauses=pauses)]) for pauses in (False, True))
    assert whole.steps.tolist() == paused.steps.tolist() == [20, 40]
    assert whole.curves.tolist() == paused.curves.tolist()


def test_single_task_learning_is_one_method_and_its_steps_are_those_of_all_its_runs():
    found = only([*single(0, reach=[0, 1], push=[1, 1]), *single(1, reach=[0, 0], push=[0, 1])])
    assert found.method == "stl"
    assert found.curves.tolist() == [[0.5, 1], [0, 0.5]]
    assert found.steps.tolist() == [20, 40]  # ten steps of each of two networks
    assert only([both("ls", 0, [0, 1], [1, 1])]).steps.tolist() == found.steps.tolist()


def test_a_seed_without_all_tasks_is_left_out():
    runs = [*single(0, reach=[1.0], push=[0.0]), *single(1, reach=[1.0])]
    assert only(runs).seeds == 1
    assert only(runs).last.mean == 0.5
    assert successes(single(1, reach=[1.0]), TASKS) == []
    assert successes([], TASKS) == []


def test_of_unequal_numbers_of_evaluations_the_common_ones_count():
    found = only([both("ls", 0, [0, 1, 1], [0, 1, 1]), both("ls", 1, [1, 0], [1, 0])])
    assert found.curves.tolist() == [[0, 1], [1, 0]]
    assert found.steps.tolist() == [20, 40]


def test_methods_keep_the_order_of_their_runs_and_their_networks():
    runs = [both(method, 0, [0.0], [1.0]) for method in ("nash-mtl:net=care", "ls", "nash-mtl")]
    assert [found.method for found in successes(runs, TASKS)] == ["nash-mtl:net=care", "ls", "nash-mtl"]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 10])
def test_the_interquartile_mean_is_that_of_the_middle(count):
    values = np.random.default_rng(count).random(count)
    cut = count // 4  # whole values only
    assert interquartile_mean(values)[0] == pytest.approx(np.sort(values)[cut : count - cut].mean())


def test_outliers_do_not_move_the_interquartile_mean():
    assert interquartile_mean(np.array([0.0, 0.5, 0.6, 1.0]))[0] == pytest.approx(0.55)
    assert interquartile_mean(np.array([0.4, 0.5, 0.6, 0.7]))[0] == pytest.approx(0.55)


def test_the_interval_is_that_of_all_resamples():
    """Three values have 27 equally likely resamples: their percentiles are the interval."""
    values = np.array([0.1, 0.4, 0.9])
    means = [np.mean(sample) for sample in product(values, repeat=3)]
    low, high = interquartile_mean(values, level=0.8)[1]
    assert (low, high) == pytest.approx(tuple(np.percentile(means, [10, 90])), abs=0.04)
    assert interquartile_mean(values, level=0.8) == interquartile_mean(values, level=0.8)  # drawn from a fixed seed


def test_there_is_no_interval_where_nothing_varies():
    assert interquartile_mean(np.array([0.3])) == (0.3, None)
    assert interquartile_mean(np.array([0.3, 0.3, 0.3]))[1] is None
    one = only([both("ls", 0, [0, 1], [1, 1])])
    assert one.interval is one.last.error is None
    assert "±" not in str(one)
    assert "[" not in str(one)
    assert "of 1 seed" in str(one)
    assert not str(one).endswith("seeds")


def test_a_line_says_all_of_it():
    runs = [both("ls:net=care", seed, [0.0, 1.0, float(seed > 0)], [0.0, 1.0, 0.0]) for seed in range(3)]
    text = str(only(runs))
    assert text.startswith("ls:net=care: mean success 0.333 ± 0.167 at the last evaluation, interquartile mean 0.333 [")
    assert "best average over evaluations 1.000 (at 40 environment steps), of 3 seeds" in text


# Figures


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """``draw``, and the figures by name instead of files."""
    figures = {}

    def save(figure, folder, stem):
        figures[stem] = figure
        return folder / stem

    monkeypatch.setattr("accord.bench.rl.curves.save", save)
    return lambda runs, tasks=TASKS: SimpleNamespace(paths=draw(runs, tasks, tmp_path), figures=figures)


def lines(axes):
    """The x and y of every line that has points."""
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines if len(line.get_xdata()) > 0]


def test_curves_are_means_over_seeds_with_a_band_from_worst_to_best(drawn):
    runs = [both("ls", 0, [0, 1, 1], [0, 0, 1]), both("ls", 1, [0, 0, 1], [0, 0, 0])]
    made = drawn(runs)
    assert [path.name for path in made.paths] == ["success", "success-tasks"]
    [axes] = made.figures["success"].axes
    assert lines(axes) == [([20, 40, 60], [0, 0.25, 0.75])]
    [band] = axes.collections
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].min() == 0
    assert corners[:, 1].max() == 1.0
    assert axes.get_legend().get_texts()[0].get_text() == "ls (2)"


def test_one_seed_has_no_band(drawn):
    [axes] = drawn([both("ls", 0, [0, 1], [0, 1])]).figures["success"].axes
    assert not axes.collections


def test_every_task_has_a_panel_on_the_axis_of_the_mean(drawn):
    runs = [both("ls", 0, [0, 1], [0, 0]), *single(0, reach=[1, 1], push=[0, 1])]
    made = drawn(runs)
    panels = {axes.get_title(): axes for axes in made.figures["success-tasks"].axes}
    assert set(panels) == set(TASKS)
    reach = lines(panels["reach-v3"])
    assert ([20, 40], [0, 1]) in reach  # ls
    assert ([20, 40], [1, 1]) in reach  # stl, whose ten steps stand for the twenty of both
    assert ([20, 40], [0, 1]) in lines(panels["push-v3"])  # stl


def test_one_task_has_one_figure_and_one_evaluation_none(drawn):
    alone = [Made("ls", 0, {"reach-v3": [0, 1]})]
    assert [path.name for path in drawn(alone, ("reach-v3",)).paths] == ["success"]
    assert drawn([both("ls", 0, [1.0], [1.0])]).paths == []
    assert drawn([]).paths == []


def test_the_files_are_pictures(tmp_path: Path):
    runs = [both("ls", 0, [0, 1], [0, 1]), both("ls", 1, [0, 1], [1, 1]), *single(0, reach=[1, 1], push=[0, 1])]
    for path in draw(runs, TASKS, tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 5000
