"""What the HTML report draws: bounded in size, true to the numbers, told apart by every reader."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.bench.html import drawing, palette, standings
from accord.bench.html import page as make
from accord.bench.html.conflicts import _stretches
from accord.bench.html.material import collect
from accord.bench.methods import METHODS
from accord.bench.spec import MethodSpec, RunKey, TaskSpec
from accord.bench.store import Store
from accord.bench.writing import writing
from accord.errors import OptionError, UnknownNameError
from support import small_problem
from support.pages import Page, put
from support.quadratic import EXPERIMENT


@pytest.fixture
def empty(tmp_path):
    return Store(tmp_path / "runs", create=True)


# Size


def test_a_long_experiment_of_many_methods_is_under_three_megabytes(empty):
    """14 methods, 11 tasks and 300 epochs, as QM9's published protocol has them, with noise that no curve hides."""
    draw = np.random.default_rng(0)
    tasks = tuple(TaskSpec(f"target-{k}", EXPERIMENT.tasks[0].metrics) for k in range(11))
    experiment = replace(EXPERIMENT, tasks=tasks)
    methods = METHODS[1:]  # without stl, whose runs are by task
    for method in (*methods, *(f"stl:task={task.name}" for task in tasks)):
        spec = MethodSpec.parse(method)
        own = [task.name for task in tasks if spec.options.get("task") in (None, task.name)]
        with writing(empty.run(RunKey("quadratic", 1, "smoke", spec, 0))) as writer:
            writer.begin({}, threads=1)
            for unit in range(1, 301):
                metrics = {f"{name}/distance": float(v) for name, v in zip(own, 1 + draw.random(len(own)), strict=True)}
                record = {"unit": unit, "steps": 900, "seconds": 1.0, "metrics": metrics}
                weights = {"weights": draw.random(11).tolist(), "conflict": float(draw.random())}
                weights["cosines"] = draw.uniform(-1, 1, 55).round(5).tolist()
                writer.append(record | ({} if spec.name == "stl" else weights))
            writer.finish({"metrics": metrics})
    text = make(empty, experiment, "smoke")
    assert len(Page(text).named("h3")) == 8
    assert len(text.encode()) < 3_000_000


points = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=400)


@given(points, st.integers(4, 60))
@settings(deadline=None)
def test_thinning_keeps_ends_extremes_and_order(values, most):
    x, y = drawing.thin(range(len(values)), values, most)
    assert len(x) <= max(most, 4)
    assert list(x) == sorted(set(x))
    assert (x[0], x[-1]) == (0, len(values) - 1)
    assert (y.min(), y.max()) == (min(values), max(values))
    assert all(values[int(place)] == value for place, value in zip(x, y, strict=True))


def test_thinning_passes_over_what_is_not_finite():
    values = [float(k % 7) for k in range(100)]
    values[50] = math.nan
    x, y = drawing.thin(range(100), values, 20)
    assert np.isfinite(y).all()
    assert len(x) <= 20


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), min_size=1, max_size=30), st.integers(1, 60))
@settings(deadline=None)
def test_the_heat_map_keeps_the_mean_over_steps(units, count):
    ends = np.cumsum([steps for steps, _ in units])
    course = [(int(end), [value]) for end, (_, value) in zip(ends, units, strict=True)]
    cells = _stretches(course, int(ends[-1]), count)
    mean = sum(steps * value for steps, value in units) / ends[-1]
    assert np.mean(cells) == pytest.approx(mean, abs=1e-9)


def test_the_heat_map_is_blank_where_a_method_did_not_get():
    cells = _stretches([(10, [0.5])], 20, 4)
    assert cells[:2] == [0.5, 0.5]
    assert np.isnan(cells[2:]).all()


def test_the_heat_map_of_pairs_names_the_most_opposed_and_lists_them_first(empty):
    tasks = tuple(TaskSpec(f"t<{k}>", EXPERIMENT.tasks[0].metrics) for k in range(14))
    experiment = replace(EXPERIMENT, tasks=tasks)
    pairs = list(itertools.combinations(range(14), 2))
    cosines = np.random.default_rng(0).uniform(-0.3, 0.55, len(pairs))
    cosines[pairs.index((4, 11))] = -0.42
    metrics = {f"{task.name}/distance": 1.0 for task in tasks}
    for seed, shift in enumerate((-0.05, 0.05)):  # the mean over seeds is the matrix itself
        put(empty, experiment, "ls", seed, {"metrics": metrics, "cosines": (cosines + shift).tolist()})
    page = Page(make(empty, experiment, "smoke"))
    (label,) = [e.get("aria-label") for e in page.named("svg") if "Cosines" in (e.get("aria-label") or "")]
    assert label == "Cosines between tasks under ls; lowest between t<4> and t<11>, -0.42"
    (figure,) = [e for e in page.named("figure") if e.get("aria-labelledby") == "pairs-title"]
    assert "the scale ends at ±0.6 in every panel" in figure.text
    assert "the 60 most opposed of 91 pairs" in figure.text
    rows = [e.text for e in page.named("th") if e.get("scope") == "row" and " – " in e.text]
    assert len(rows) == 60
    assert rows[0] == "t<4> – t<11>"


def test_pairs_that_no_step_measured_have_no_heat_map(empty):
    put(empty, EXPERIMENT, "uw", 0, {"metrics": {f"{n}": 1.0 for n, _ in EXPERIMENT.metrics}, "cosines": None})
    assert "pairs-title" not in make(empty, EXPERIMENT, "smoke")


# Fronts


coordinates = st.integers(-3, 3)


@given(
    st.dictionaries(st.integers(0, 30), st.tuples(coordinates, coordinates), min_size=1), st.booleans(), st.booleans()
)
def test_a_front_is_what_no_other_beats_and_everything_else_is_beaten_by_it(points, first, second):
    named = {str(name): point for name, point in points.items()}

    def beats(one, other):
        gains = [(a - b) * (1 if up else -1) for a, b, up in zip(one, other, (first, second), strict=True)]
        return min(gains) >= 0 and max(gains) > 0

    front = standings.front_of(named, (first, second))
    for name, point in named.items():
        assert (name in front) == (not any(beats(other, point) for other in named.values()))


def test_the_pair_that_is_drawn_is_chosen_or_the_one_over_which_methods_disagree(empty):
    tasks = tuple(TaskSpec(name, EXPERIMENT.tasks[0].metrics) for name in ("a", "b", "c"))
    experiment = replace(EXPERIMENT, tasks=tasks)
    for method, values in {"ls": (1, 1, 3), "uw": (2, 2, 2), "mgda": (3, 4, 1)}.items():
        put(
            empty,
            experiment,
            method,
            0,
            {"metrics": {f"{t}/distance": float(v) for t, v in zip("abc", values, strict=True)}},
        )
    assert standings.conflicting_pair(collect(empty, experiment, "smoke")) in (
        ("a/distance", "c/distance"),
        ("b/distance", "c/distance"),
    )
    page = Page(make(empty, experiment, "smoke", fronts=("a", "b/distance")))
    (picture,) = [svg for svg in page.named("svg") if (svg.get("aria-label") or "").startswith("a/distance against")]
    assert picture.get("aria-label") == "a/distance against b/distance; not beaten in both: ls"


def test_fronts_that_are_not_there_are_told():
    experiment = small_problem.EXPERIMENT
    with pytest.raises(UnknownNameError, match=r"no metric 'up/abs_er'; did you mean 'up/abs_err'.*down/hits"):
        standings.check_pair(experiment, ("up/abs_er", "down/hits"))
    with pytest.raises(UnknownNameError, match="no metric 'down'"):  # it has two
        standings.check_pair(experiment, ("up", "down"))
    with pytest.raises(OptionError, match="given twice"):
        standings.check_pair(experiment, ("up", "up/abs_err"))


# Colours


def linear(colour):
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """The ratio of WCAG 2."""
    light, dark = sorted((float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def lab(rgb):
    """CIE L*a*b* of linear RGB under D65."""
    matrix = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    x = matrix @ rgb / np.array([0.95047, 1.0, 1.08883])
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


SIGHT = {  # Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
    "full": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


@pytest.mark.parametrize("scheme", [palette.LIGHT, palette.DARK], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_their_ground(scheme):
    for ground in ("ground", "raised", "warn"):
        assert contrast(scheme["ink"], scheme[ground]) >= 7
        assert contrast(scheme["accent"], scheme[ground]) >= 4.5
    for ground in ("ground", "raised"):
        assert contrast(scheme["soft"], scheme[ground]) >= 4.5
    assert all(contrast(scheme[name], scheme["ground"]) >= 3 for name in palette.LINES)


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("scheme", [palette.LIGHT, palette.DARK], ids=["light", "dark"])
def test_lines_stay_apart_for_readers_who_see_colours_differently(scheme, sight):
    seen = [lab(np.clip(SIGHT[sight] @ linear(scheme[name]), 0, 1)) for name in palette.LINES]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 11  # 2 is just noticed


def test_forty_lines_and_sixty_four_points_look_different():
    points = {(drawing.colour_of(look), drawing.marker_of(look)) for look in range(64)}
    assert len(points) == 64
    lines = [drawing.legend_of([drawing.Entry("k", "n", look)]) for look in range(40)]
    assert len(set(lines)) == 40
