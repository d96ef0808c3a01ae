"""What the papers prove of whole runs: Nash-MTL's Theorems 5.4 and 5.5 and CAGrad's convergence, run.

Losses are NumPy functions with a known smoothness L, their Pareto stationarity is measured by least squares with
signs (SciPy) and their Pareto optimality by a convex program over the losses themselves (cvxpy): neither knows Nash.
"""

import cvxpy
import numpy as np
import pytest
import scipy.optimize

from accord.solvers import cagrad, mgda, nash, pareto_stationarity

DIMENSIONS = 6


class Quadratic:
    """½‖A(θ − c)‖², convex; ‖A‖² is its smoothness."""

    def __init__(self, rng, matrix=None, spread=2.0):
        given = rng.standard_normal((DIMENSIONS, DIMENSIONS)) / np.sqrt(DIMENSIONS) if matrix is None else matrix
        self.matrix, self.centre = given, spread * rng.standard_normal(DIMENSIONS)
        self.smoothness = np.linalg.norm(given, 2) ** 2

    def value(self, theta):
        return 0.5 * np.sum((self.matrix @ (theta - self.centre)) ** 2)

    def gradient(self, theta):
        return self.matrix.T @ (self.matrix @ (theta - self.centre))

    def expression(self, theta):
        return 0.5 * cvxpy.sum_squares(self.matrix @ (theta - self.centre))


class Isotropic(Quadratic):
    """½‖θ − c‖²: smooth with no slack, so that the bounds of the proofs are equalities."""

    def __init__(self, rng):
        super().__init__(rng, np.eye(DIMENSIONS))


class Logistic:
    """Mean of log(1 + exp(xᵀθ)) over points on both sides: coercive and convex, but not strongly so."""

    def __init__(self, rng):
        self.points = rng.standard_normal((40, DIMENSIONS))
        self.smoothness = np.linalg.norm(self.points, 2) ** 2 / 4 / 40

    def value(self, theta):
        return np.logaddexp(0, self.points @ theta).mean()

    def gradient(self, theta):
        return self.points.T @ (0.5 + 0.5 * np.tanh(self.points @ theta / 2)) / 40

    def expression(self, theta):
        return cvxpy.sum(cvxpy.logistic(self.points @ theta)) / 40


class Valley(Quadratic):
    """1 − exp(−q) of a quadratic q: flat far away, concave beyond its rim. As smooth as q."""

    def __init__(self, rng):
        super().__init__(rng, spread=0.5)

    def value(self, theta):
        return -np.expm1(-super().value(theta))

    def gradient(self, theta):
        return np.exp(-super().value(theta)) * super().gradient(theta)


class Waves(Quadratic):
    """A quadratic with a cosine on top: many stationary points."""

    def __init__(self, rng):
        super().__init__(rng)
        self.wave = 2.0 * rng.standard_normal(DIMENSIONS)
        self.smoothness += 0.5 * self.wave @ self.wave

    def value(self, theta):
        return super().value(theta) + 0.5 * np.cos(self.wave @ theta)

    def gradient(self, theta):
        return super().gradient(theta) - 0.5 * np.sin(self.wave @ theta) * self.wave


CONVEX = (Quadratic, Isotropic, Logistic)
NON_CONVEX = (Valley, Waves)


def tasks_of(kind, k, start=3.0):
    rng = np.random.default_rng([k, len(kind.__name__)])
    losses = [kind(rng) for _ in range(k)]
    return losses, start * rng.standard_normal(DIMENSIONS), max(loss.smoothness for loss in losses)


def values_of(losses, theta):
    return np.array([loss.value(theta) for loss in losses])


def jacobian_of(losses, theta):
    return np.stack([loss.gradient(theta) for loss in losses])  # (K, P)


def stationarity(rows):
    """A bound from above on the least norm of a convex combination: the norm of the one that least squares finds.

    Minimising ‖Jᵀx‖² + (Σx − 1)² over x ≥ 0 gives a multiple of the point of least norm.
    """
    size = np.linalg.norm(rows, axis=1).max()
    system = np.vstack([rows.T / size, np.ones(len(rows))])
    x = scipy.optimize.nnls(system, np.append(np.zeros(rows.shape[1]), 1.0))[0]
    return np.linalg.norm(rows.T @ (x / x.sum()))


def common_decrease(losses, theta):
    """By how much all losses can fall together from theta, anywhere in space: 0 where theta is Pareto optimal."""
    other, gain = cvxpy.Variable(len(theta)), cvxpy.Variable()
    better = [loss.expression(other) + gain <= loss.value(theta) for loss in losses]
    return float(cvxpy.Problem(cvxpy.Maximize(gain), better).solve(solver=cvxpy.CLARABEL))


def nash_run(losses, theta, smoothness, max_steps=6000):
    """The paper's algorithm with its step min_i 1/(L K α_i), up to where float64 sees a stationary point.

    Yields (θ, losses, Jacobian, α, step), before each step.
    """
    for _ in range(max_steps):
        rows = jacobian_of(losses, theta)
        solution = nash(rows @ rows.T)
        if solution.stationary or solution.zero_rows:
            return
        assert solution.solved
        step = 1 / (smoothness * len(losses) * solution.weights.max())
        yield theta, values_of(losses, theta), rows, solution.weights, step
        theta = theta - step * (rows.T @ solution.weights)


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("kind", [*CONVEX, *NON_CONVEX])
def test_theorem_5_4_every_loss_falls_until_the_point_is_stationary(kind, k):
    """Each step lowers loss i by at least μ/(2α_i), their mean by at least L·K·μ²/2, and the end is stationary."""
    losses, start, smoothness = tasks_of(kind, k, start=0.5 if kind is Valley else 3.0)
    path = list(nash_run(losses, start, smoothness))
    values = np.array([values for _, values, *_ in path])
    falls = values[:-1] - values[1:]
    promised = np.array([step / (2 * weights) for *_, weights, step in path[:-1]])
    rounding = 1e-13 * np.abs(values[:-1])
    assert (falls > 0).all()
    assert (falls >= promised * (1 - 1e-9) - rounding).all()
    steps = np.array([step for *_, step in path[:-1]])
    assert (falls.mean(1) >= smoothness * k * steps**2 / 2 * (1 - 1e-9) - rounding.max(1)).all()
    measures = np.array([stationarity(rows) for _, _, rows, *_ in path])
    assert len(path) < 6000
    assert measures[-1] < 1e-3 * np.linalg.norm(path[0][2], axis=1).max()
    assert pareto_stationarity(path[-1][2] @ path[-1][2].T) < 1e-2
    quarters = [part.min() for part in np.array_split(measures, 4)]
    assert (np.diff(quarters) < 0).all()
    assert quarters[-1] < 0.1 * quarters[0]


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("kind", CONVEX)
def test_theorem_5_5_on_convex_losses_the_end_is_pareto_optimal(kind, k):
    losses, start, smoothness = tasks_of(kind, k)
    *_, (end, *_) = nash_run(losses, start, smoothness)
    assert common_decrease(losses, start) > 1e-2
    assert common_decrease(losses, end) == pytest.approx(0, abs=1e-6)
    if kind is Isotropic:  # whose Pareto set is the convex hull of the minimisers
        assert stationarity(jacobian_of(losses, end)) < 1e-3 * np.linalg.norm(start)


def test_the_step_of_theorem_5_4_is_the_longest():
    """Where the smoothness has no slack the task of the largest α falls by exactly μ/(2α), and at 2μ no more."""
    losses, start, smoothness = tasks_of(Isotropic, 4)
    for theta, values, rows, weights, step in list(nash_run(losses, start, smoothness))[:50]:
        worst, d = weights.argmax(), rows.T @ weights
        fall = values[worst] - losses[worst].value(theta - step * d)
        assert fall == pytest.approx(step / (2 * weights[worst]), rel=1e-6)
        assert losses[worst].value(theta - 2.02 * step * d) > values[worst]


class Disc(Isotropic):
    """½ dist(θ, unit ball)²: convex, coercive and smooth, and least on a whole ball."""

    def value(self, theta):
        return 0.5 * max(0.0, np.linalg.norm(theta) - 1) ** 2

    def gradient(self, theta):
        return theta * max(0.0, 1 - 1 / np.linalg.norm(theta))


def test_theorem_5_5_without_strict_convexity_gives_weak_pareto_optimality():
    """The run stops where it meets the ball of minimisers, though the other loss could fall further along it.

    The combination that vanishes there has all its weight on one task. A minimiser of that loss is weakly Pareto
    optimal, no other point being better for all, but it is dominated. All assumptions of the theorem hold, and its
    proof ("the optimiser of the convex combination of losses") shows no more.
    """
    axes = np.eye(DIMENSIONS)
    losses = [Disc(np.random.default_rng(0)), Isotropic(np.random.default_rng(0))]
    losses[1].centre = 3 * axes[0]
    path = list(nash_run(losses, 3 * axes[1] - axes[0], 1.0))
    values = np.array([values for _, values, *_ in path])
    first, away = values[:, 0], values[:-1, 0] > 1e-24  # nearer to the ball than that is rounding
    assert (np.diff(first)[away] < 0).all()
    assert first[-1] < 1e-20
    assert stationarity(path[-1][2]) < 1e-10
    assert pareto_stationarity(path[-1][2] @ path[-1][2].T) > 0.1  # the unit gradients do not balance
    best = axes[0]  # the point of the ball that is nearest to the other minimiser
    assert losses[0].value(best) == 0
    assert losses[1].value(best) < values[-1, 1] - 1


@pytest.mark.parametrize("kind", [Quadratic, Isotropic, Logistic])
@pytest.mark.parametrize("c", [0.0, 0.3, 0.6, 0.9])
def test_cagrad_with_c_below_one_minimises_the_mean(kind, c):
    """At step 1/L the mean loss falls by at least (1 − c²)‖g0‖²/(2L), and its gradient vanishes."""
    losses, theta, smoothness = tasks_of(kind, 3)
    value, optimum = values_of(losses, theta).mean(), mean_minimiser(losses, theta)
    for _ in range(3000):
        rows = jacobian_of(losses, theta)
        mean = rows.mean(0)
        if np.linalg.norm(mean) < 1e-7:
            break
        solution = cagrad(rows @ rows.T, c)
        assert solution.outcome in ("solved", "stationary")
        d = rows.T @ solution.weights
        assert np.linalg.norm(d - mean) <= c * np.linalg.norm(mean) * (1 + 1e-5) + 1e-14
        if c == 0:
            np.testing.assert_allclose(d, mean, rtol=1e-12, atol=1e-15)  # plain gradient descent
        theta = theta - d / smoothness
        before, value = value, values_of(losses, theta).mean()
        promised = (1 - c * c) * (mean @ mean) / (2 * smoothness)
        assert before - value >= promised * (1 - 1e-6) - 1e-13 * before
        if kind is Isotropic and solution.solved:
            assert before - value == pytest.approx(promised, rel=1e-5, abs=1e-13 * before)
    np.testing.assert_allclose(theta, optimum, atol=1e-5)


def mean_minimiser(losses, start):
    """Where the mean loss is least, by SciPy's quasi-Newton method."""
    found = scipy.optimize.minimize(
        lambda theta: values_of(losses, theta).mean(),
        -start,
        jac=lambda theta: jacobian_of(losses, theta).mean(0),
        method="BFGS",
        options={"gtol": 1e-8},
    )
    # not found.success: the line search stops where the values themselves are rounding, which is near 1e-8
    assert np.linalg.norm(jacobian_of(losses, found.x).mean(0)) < 1e-7
    return found.x


@pytest.mark.parametrize("k", [2, 3, 5])
@pytest.mark.parametrize("c", [1.5, 3.0])
def test_cagrad_with_c_above_one_ends_pareto_stationary_and_not_at_the_mean(c, k):
    """The ball around g0 holds a multiple of MGDA's direction, so the common gain vanishes only where that does.

    At a fixed step such a run goes round, as ‖d‖ ≥ (c − 1)‖g0‖; the step here is the descent lemma's.
    """
    losses, theta, smoothness = tasks_of(Quadratic, k)
    start = stationarity(jacobian_of(losses, theta))
    values = values_of(losses, theta)
    for _ in range(3000):
        rows = jacobian_of(losses, theta)
        if stationarity(rows) < 1e-3:
            break
        solution = cagrad(rows @ rows.T, c)
        assert solution.solved
        d = rows.T @ solution.weights
        gain, length = (rows @ d).min(), np.linalg.norm(d)
        assert gain / length >= (c - 1) / (c + 1) * stationarity(rows) * (1 - 1e-6)
        theta = theta - gain / (smoothness * length**2) * d
        before, values = values, values_of(losses, theta)
        assert (before - values >= gain**2 / (2 * smoothness * length**2) * (1 - 1e-6)).all()
    assert stationarity(rows) < 1e-3 < 0.1 * start
    assert common_decrease(losses, theta) == pytest.approx(0, abs=1e-4)
    assert np.linalg.norm(rows.mean(0)) > 0.1
    assert values.mean() > values_of(losses, mean_minimiser(losses, theta)).mean() + 0.05


def test_mgda_ends_pareto_optimal_too():
    """The same measures on another method's run: every loss falls by ‖g_x‖²/(2L) at step 1/L."""
    losses, theta, smoothness = tasks_of(Quadratic, 4)
    values = values_of(losses, theta)
    for _ in range(3000):
        rows = jacobian_of(losses, theta)
        d = rows.T @ mgda(rows @ rows.T).weights
        if np.linalg.norm(d) < 1e-4:
            break
        theta = theta - d / smoothness
        before, values = values, values_of(losses, theta)
        assert (before - values >= d @ d / (2 * smoothness) * (1 - 1e-6)).all()
    assert common_decrease(losses, theta) == pytest.approx(0, abs=1e-6)
