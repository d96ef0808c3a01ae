"""The spec grammar ``name:option=value,…``: what is written reads back, whatever is nested in it."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import accord
from accord.balancers.grammar import format_spec, parse_spec
from accord.errors import OptionError

VALUES = st.one_of(
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
    st.text(alphabet="abz09 ,'\"\\=:()[]{}.-+_µ\n", max_size=12),
    st.sampled_from(
        ["None", "true", "inf", "-inf", "25", "1e5", "[1, 2]", "'x'", "it's", "a b", "cagrad:c=0.5,rescale=1"]
    ),
    st.lists(st.floats(-10, 10), max_size=3),
)
NAMES = st.sampled_from(["of", "alpha", "weights", "max_norm", "x1"])


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_what_is_written_reads_back(options):
    text = format_spec("some-method", options)
    name, again = parse_spec(text)
    assert name == "some-method"
    assert again == options
    assert {k: type(v) for k, v in again.items()} == {k: type(v) for k, v in options.items()}
    assert format_spec(name, again) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(NAMES.filter(lambda n: n != "of"), VALUES, max_size=3), min_size=2, max_size=5))
def test_specs_nested_in_specs_read_back(levels):
    text = "innermost"
    for options in levels:
        text = format_spec("wrapper", {"of": text, **options})
    for options in reversed(levels):
        name, found = parse_spec(text)
        text = found.pop("of")
        assert name == "wrapper"
        assert found == options
    assert text == "innermost"


def test_nested_quotes_build_what_they_say():
    spec = "alpha-fair:alpha=0.5,of=\"cr-mogm:of='cagrad:c=0.2,rescale=1',beta=0.5\""
    balancer = accord.make(spec, tasks=2)
    assert (balancer.alpha, balancer.inner.beta, balancer.inner.inner.c) == (0.5, 0.5, 0.2)
    assert balancer.inner.inner.rescale == 1
    assert parse_spec(format_spec(*parse_spec(spec))) == parse_spec(spec)
    deeper = format_spec("cr-mogm", {"of": spec, "beta": 0.25})
    assert accord.make(deeper, tasks=2).inner.inner.inner.c == 0.2
    written = repr(accord.make(deeper, tasks=2))
    assert repr(eval(written, {name: getattr(accord, name) for name in accord.__all__})) == written
    assert (
        accord.make("cr-mogm:of=cagrad:c=0.2,beta=0.5", tasks=2).inner.c == 0.2
    )  # without commas no quotes are needed


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("ls", {}),
        (" LS : reduction = mean ", {"reduction": "mean"}),
        ("x:a=25,b=0.4,c=None,d=True,e=[1, 2],f=inf,g=-inf,h=none,i=false", None),
        ("x:a='1, 2',b=\"it's\",c='a\\'b,c'", {"a": "1, 2", "b": "it's", "c": "a'b,c"}),
        ("x:a={'k': [1, (2, 3)]}", {"a": {"k": [1, (2, 3)]}}),
    ],
)
def test_what_is_read(text, options):
    if options is None:
        options = dict(zip("abcdefghi", (25, 0.4, None, True, [1, 2], math.inf, -math.inf, None, False), strict=True))
    assert parse_spec(text)[1] == options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no method name"),
        (":a=1", "no method name"),
        ("x:", "not of the form option=value"),
        ("x:a", "'a' is not of the form option=value"),
        ("x:a=", "'a=' is not of the form"),
        ("x:=1", "'=1' is not of the form"),
        ("x:a b=1", "'a b=1' is not of the form"),
        ("x:a=1,,b=2", "'' is not of the form"),
        ("x:a=1,a=2", "'a' is given twice"),
        ("x:a=it's,b=2", "quote is not closed"),
        ("x:a=[1, 2", "bracket is not closed"),
        ("x:a=1]", "bracket"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(OptionError, match=message):
        parse_spec(text)
