"""Δm and the mean rank against the papers' own tables."""

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.errors import NonFiniteError, ShapeError
from accord.metrics import conflict, delta_m, mean_rank

PUBLISHED = Path(__file__).parent / "published"
HIGHER = {
    "nyuv2": dict.fromkeys(["miou", "pix_acc", "within_11", "within_22", "within_30"], True)
    | dict.fromkeys(["abs_err", "rel_err", "mean", "median"], False),
    "cityscapes": {"miou": True, "pix_acc": True, "abs_err": False, "rel_err": False},
}


def read(name):
    """Rows by method, as printed."""
    with (PUBLISHED / f"{name}.csv").open() as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def half_unit(text):
    """Half a unit of the last printed digit."""
    return 0.5 * 10.0 ** -len(text.partition(".")[2])


def attainable(row, base, higher):
    """The least and greatest Δm that values within rounding of the printed ones can have."""
    bounds = []
    for sign in (-1, 1):
        worst, against = {}, {}
        for name in higher:
            up = sign * (-1 if higher[name] else 1)
            worst[name] = float(row[name]) + up * half_unit(row[name])
            against[name] = float(base[name]) - up * half_unit(base[name])
        bounds.append(delta_m(worst, against, higher))
    return bounds


@pytest.mark.parametrize("table", ["nyuv2", "cityscapes"])
def test_delta_m_of_every_published_row(table):
    rows, higher = read(table), HIGHER[table]
    base = rows.pop("STL")
    off = {}
    for method, row in rows.items():
        low, high = attainable(row, base, higher)
        reported = float(row["delta_m"])
        if not low - half_unit(row["delta_m"]) <= reported <= high + half_unit(row["delta_m"]):
            off[method] = round(
                delta_m({n: float(row[n]) for n in higher}, {n: float(base[n]) for n in higher}, higher), 2
            )
    assert off == ({"IMTL-G": -0.60} if table == "nyuv2" else {})


def test_mean_rank_is_that_of_the_famo_paper_on_nyuv2():
    published = {
        "LS": 8.89, "SI": 7.89, "RLW": 11.22, "DWA": 7.67, "UW": 7.44, "MGDA": 6.00, "PCGrad": 8.00,
        "GradDrop": 7.00, "CAGrad": 4.56, "IMTL-G": 3.78, "Nash-MTL": 2.11, "FAMO": 3.44,
    }  # fmt: skip
    rows, higher = read("nyuv2"), HIGHER["nyuv2"]
    ranks = mean_rank({m: {n: float(rows[m][n]) for n in higher} for m in published}, higher)
    assert ranks == pytest.approx(published, abs=0.006)


def test_mean_rank_is_a_permutation_average():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 4, (5, 7)).astype(float)
    higher = {f"m{j}": bool(j % 2) for j in range(7)}
    ranks = mean_rank({f"a{i}": {f"m{j}": values[i, j] for j in range(7)} for i in range(5)}, higher)
    assert sum(ranks.values()) == pytest.approx(15.0)
    # the average over all orders that agree with the values, counted by hand
    column = values[:, 0]
    first = [
        np.mean(
            [
                list(p).index(i) + 1
                for p in itertools.permutations(range(5))
                if all(column[a] <= column[b] for a, b in itertools.pairwise(p))
            ]
        )
        for i in range(5)
    ]
    one = mean_rank({f"a{i}": {"m0": column[i]} for i in range(5)}, {"m0": False})
    assert list(one.values()) == pytest.approx(first)


def test_delta_m_signs():
    higher = {"acc": True, "err": False}
    base = {"acc": 0.5, "err": 2.0}
    assert delta_m(base, base, higher) == 0.0
    assert delta_m({"acc": 0.25, "err": 2.0}, base, higher) == pytest.approx(25.0)
    assert delta_m({"acc": 0.5, "err": 1.0}, base, higher) == pytest.approx(-25.0)


@given(st.floats(0.1, 10), st.floats(-10, 10).filter(lambda x: abs(x) > 0.1), st.booleans())
def test_what_is_better_has_a_negative_delta_m_whatever_the_baseline_s_sign(step, base, up):
    better = base + (step if up else -step)
    assert delta_m({"x": better}, {"x": base}, {"x": up}) < 0
    assert delta_m({"x": better}, {"x": base}, {"x": up}) == pytest.approx(-100 * step / abs(base))


def test_bad_input_is_named():
    with pytest.raises(ShapeError, match="'err' is missing from the metrics"):
        delta_m({"acc": 1.0}, {"acc": 1.0, "err": 1.0}, {"acc": True, "err": False})
    with pytest.raises(NonFiniteError, match="baseline"):
        delta_m({"acc": 1.0}, {"acc": 0.0}, {"acc": True})
    with pytest.raises(ShapeError, match="missing for b"):
        mean_rank({"a": {"x": 1.0}, "b": {}}, {"x": False})
    with pytest.raises(ShapeError, match="no metric"):
        mean_rank({"a": {}}, {})


def test_conflict_counts_pairs():
    rows = np.array([[1.0, 0.0], [-1.0, 1.0], [0.0, 0.0]])
    result = conflict(rows @ rows.T)
    assert result.share == pytest.approx(1 / 3)
    assert result.min_cosine == pytest.approx(-np.sqrt(0.5))
    assert conflict([[2.0]]) == (0.0, 1.0, 1.0)
