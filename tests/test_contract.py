"""Every registered method passes the contract that accord.testing ships, and the contract can fail."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import accord
from accord import testing
from accord.testing import CHECKS, Row, check_balancer
from support import broken


def falling(k):
    """K numbers, one a task."""
    return [1.0 / (i + 1) for i in range(k)]


ROWS = [
    Row("aligned-mtl"),
    Row("aligned-mtl", scale="median", reduction="mean", heads="weighted"),
    Row("aligned-mtl", scale="rmse"),
    Row("alpha-fair", of="ls", alpha=0.5),
    Row("alpha-fair", of="cagrad:c=0.2,rescale=1", alpha=0.5),
    Row("alpha-fair", of="nash-mtl", alpha=2.0),
    Row("alpha-fair", of="famo", alpha=0.5),
    Row("alpha-fair", of="uw", alpha=0.3),
    Row("alpha-fair", of="graddrop", alpha=1.0),
    Row("alpha-fair", of="db-mtl:beta=0", alpha=0.5),
    Row("cagrad"),
    Row("cagrad", c=1.5, rescale=2, times_k=True, heads="weighted"),
    Row("config"),
    Row("cr-mogm"),
    Row("cr-mogm", of="pcgrad:seed=3", beta=0.5),
    Row("cr-mogm", of="imtl"),
    Row("cr-mogm", of="alpha-fair:of=nash-mtl,alpha=0.5"),
    Row("db-mtl"),
    Row("db-mtl", beta=0.5, beta_sigma=0.5),
    Row("db-mtl", beta=0),
    Row("dualproj"),
    Row("dualproj", preference=falling),
    Row("dwa", window=2),
    Row("dwa", window=1, reduction="mean"),
    Row("fairgrad"),
    Row("fairgrad", alpha=0),
    Row("fairgrad", alpha=0.5, update_every=2),
    Row("fairgrad", alpha=float("inf"), times_k=True),
    Row("famo"),
    Row("famo", max_norm=0.5),
    Row("famo", gamma=0.01, minima=lambda k: [0.01] * k),
    Row("gls"),
    Row("graddrop"),
    Row("graddrop", leak=0.25, seed=2, reduction="mean"),
    Row("gradnorm"),
    Row("gradvac", beta=0.5),
    Row("imtl"),
    Row("imtl", init=0.3, heads="weighted"),
    Row("imtl-g"),
    Row("imtl-l"),
    Row("ls"),
    Row("ls", weights=falling, reduction="mean"),
    Row("mgda"),
    Row("mgda", update_every=3, max_norm=0.1),
    Row("mgda", normalization="loss+", times_k=True),
    Row("moco"),
    Row("moco", scale_to_loss=True, rho=0.1),
    Row("modo"),
    Row("modo", gamma=0.01, rho=0.1, heads="weighted"),
    Row("nash-mtl", max_norm=1.0),
    Row("nash-mtl", update_every=3),
    Row("nash-mtl", solver="ccp", ccp_steps=3),
    Row("nash-mtl", solver="ccp", ccp_steps=1, first_term=False, heads="plain"),
    Row("pcgrad"),
    Row("pcgrad", seed=4, reduction="mean", update_every=2),
    Row("rlw"),
    Row("sdmgrad"),
    Row("sdmgrad", lam=0.6, times_k=True, heads="weighted"),
    Row("si"),
    Row("stch", warmup=3),
    Row("stch", mu=0.1, warmup=0),
    Row("stch", nadir=falling),
    Row("upgrad"),
    Row("upgrad", preference=falling, heads="weighted"),
    Row("uw", init=-0.5),
]


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_every_method_passes(row, name):
    CHECKS[name](row)


def test_every_registered_method_has_a_row():
    assert {row.name for row in ROWS} == set(accord.available())


def test_rows_are_told_apart_and_read_back():
    assert len({str(row) for row in ROWS}) == len(ROWS)
    assert repr(Row("nash-mtl:update_every=3", max_norm=None)) == "Row('nash-mtl:max_norm=None,update_every=3')"
    assert Row("ls", weights=falling).make(2).weights == [1.0, 0.5]
    assert Row(accord.CAGrad, c=0.2).make(["a", "b"]).c == 0.2


# ---------------------------------------------------------------- the suite can fail


@pytest.mark.parametrize(("cls", "names"), broken.CAUGHT_BY.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_balancer_is_caught_by_the_check_of_what_it_breaks(cls, names):
    for name in names:
        with pytest.raises(AssertionError, match=f"{cls.__name__} fails the check '{name}'"):
            CHECKS[name](Row(cls))


def test_a_sound_balancer_of_the_same_kind_passes_all():
    check_balancer(broken.Sound)
    check_balancer(broken.SoundOnGramian, power=0.5)


def test_all_failures_are_named_at_once():
    with pytest.raises(AssertionError) as caught:
        check_balancer(broken.Forgets)
    lines = str(caught.value).splitlines()
    assert any("'resume'" in line for line in lines)
    assert any("'failed_step'" in line for line in lines)
    assert not any("'determinism'" in line for line in lines)
    assert isinstance(caught.value.__cause__, AssertionError)


def test_every_check_is_seen_to_fail():
    seen = {name for names in broken.CAUGHT_BY.values() for name in names}
    assert set(CHECKS) == seen


def test_the_suite_has_no_assert_that_python_could_leave_out():
    for path in Path(testing.__path__[0]).glob("*.py"):
        assert not [node.lineno for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)], path


def test_gramians_come_without_torch():
    code = "import sys\nfrom accord.testing import gramians\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
