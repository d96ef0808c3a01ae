"""The bar over data that are made once: what is shown, where, and what is not."""

import sys

import pytest

from accord.bench.data.bars import counted
from accord.errors import DependencyError


def work(show):
    with counted("rooms", "rendering [frames]", 1234, show) as advance:
        for _ in range(2):
            advance(617)


def test_it_is_silent_unless_asked(capsys):
    work(show=False)
    assert capsys.readouterr() == ("", "")


def test_a_file_gets_one_line_on_standard_error(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    work(show=True)
    assert capsys.readouterr() == ("", "rooms: rendering [frames]: 1,234, once\n")


def test_a_terminal_gets_a_bar_that_reaches_its_end(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    work(show=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err
    assert "once" not in err


def test_without_rich_the_extra_that_brings_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    work(show=False)  # what shows nothing needs nothing
    with pytest.raises(DependencyError, match=r"rooms: rich is missing: `pip install 'accord\[experiments\]'`"):
        work(show=True)
    with (
        pytest.raises(DependencyError, match=r"demonstrations: .*accord\[rl\]"),
        counted("demonstrations", "recording", 1, True, extra="rl"),
    ):
        pass
