"""Families of Jacobians that break gradient-balancing solvers, as float64 arrays (K, P)."""

FAMILIES = ("random", "aligned", "conflicting", "duplicates", "nearly_equal", "zero_row")
STATIONARY = ("opposite", "low_rank", "vanishing_sum")


def jacobian(family, k, rng, *, spread=0.0, scale=1.0, p=60):
    """K gradients: directions of the family, norms spread over 10^±spread, all times scale."""
    rows = rng.standard_normal((k, max(p, k + 5)))
    if family == "aligned":
        rows += 2 * rng.standard_normal(rows.shape[1])
    elif family == "conflicting":
        rows -= 0.9 * rows.mean(0)
    elif family == "nearly_equal":
        rows = rng.standard_normal(rows.shape[1]) + 1e-4 * rows
    elif family == "low_rank":
        rows = rng.standard_normal((k, 2)) @ rng.standard_normal((2, rows.shape[1]))
    elif family == "vanishing_sum":
        rows -= rows.mean(0)
    rows *= scale * 10.0 ** rng.uniform(-spread, spread, (k, 1))
    if k > 1 and family == "duplicates":
        rows[1] = rows[0]
    if k > 1 and family == "opposite":
        rows[1] = -3 * rows[0]
    if k > 1 and family == "zero_row":
        rows[k // 2] = 0.0
    return rows


def gramian(family, k, rng, **options):
    """J @ J.T of ``jacobian``."""
    rows = jacobian(family, k, rng, **options)
    return rows @ rows.T
