"""Figures with many tasks: nothing collapses, nothing is cut off, every line can be told from the others."""

import itertools
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from accord.bench import plots
from accord.bench.report import summarise
from accord.bench.spec import MethodSpec, RunKey, TaskSpec
from accord.bench.store import Store
from accord.bench.writing import writing

SUPPORT = Path(__file__).parent / "support"
TASKS = tuple(f"Attribute_number_{k}" for k in range(40))
METHODS = ("ls", "uw", "mgda", "pcgrad", "cagrad", "nash-mtl", "fairgrad", "famo", "dwa")


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A store and an experiment of 40 tasks with long names, for some methods."""
    monkeypatch.syspath_prepend(SUPPORT)
    from quadratic import EXPERIMENT

    experiment = replace(EXPERIMENT, tasks=tuple(TaskSpec(task, EXPERIMENT.tasks[0].metrics) for task in TASKS))

    def make(methods):
        store = Store(tmp_path / "runs", create=True)
        for method in (*methods, *(f"stl:task={task}" for task in TASKS)):
            run = store.run(RunKey("quadratic", 1, "smoke", MethodSpec.parse(method), 0))
            single = run.key.method.options.get("task")
            measured = {f"{task}/distance": 1.0 for task in TASKS if single in (None, task)}
            with writing(run) as writer:
                writer.begin({}, threads=1)
                for unit in range(1, 4):
                    shares = [1.0 + (k * unit) % 7 for k in range(len(TASKS))]
                    record = {"unit": unit, "steps": 10, "seconds": 0.1, "metrics": measured}
                    writer.append(record | ({} if single else {"weights": shares, "conflict": 0.3}))
                writer.finish({"metrics": measured})
        return store, experiment

    return make


@pytest.mark.parametrize("count", [1, 3, len(METHODS)])
def test_forty_tasks_are_drawn_without_a_warning(made, tmp_path, count):
    store, experiment = made(METHODS[:count])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = plots.draw(store, experiment, "smoke", tmp_path / "figures")
    assert [path.stem for path in paths] == ["delta-m", "progress", "weights", "conflict"]


@pytest.mark.parametrize("count", [1, 3])
def test_the_legend_takes_little_from_the_panels_and_lies_inside_the_figure(made, count):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    store, experiment = made(METHODS[:count])
    runs = [run for run in store.runs("quadratic", 1, "smoke") if run.key.method.name != "stl"]
    heights = []
    with plots.style():
        for tasks in (2, len(TASKS)):
            some = replace(experiment, tasks=experiment.tasks[:tasks])
            figure = plots.weights_figure(summarise(store, some, "smoke"), runs)
            canvas = FigureCanvasAgg(figure)
            canvas.draw()
            heights += [figure.axes[0].get_window_extent().height]
            (legend,) = figure.legends
            assert len(legend.get_texts()) == tasks
            box, whole = legend.get_window_extent(canvas.get_renderer()), figure.bbox
            assert 0 <= box.x0 <= box.x1 <= whole.x1
            assert max(axes.get_window_extent().y1 for axes in figure.axes) <= box.y0 <= box.y1 <= whole.y1
    assert heights[1] > 0.75 * heights[0]


def test_forty_lines_look_different():
    looks = [plots.line_style(k) for k in range(40)]
    assert all(one != other for one, other in itertools.combinations(looks, 2))
