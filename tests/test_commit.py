"""Which commit a run came from, read without git."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from accord.bench.commit import checkout, commit, modified
from accord.bench.writing import attempt

FIRST, SECOND = "1" * 40, "2" * 40


@pytest.fixture
def package(tmp_path):
    """A checkout with a branch main at FIRST, as its .git folder has it; the package in it."""
    package = tmp_path / "src/accord"
    package.mkdir(parents=True)
    heads = tmp_path / ".git/refs/heads"
    heads.mkdir(parents=True)
    (tmp_path / ".git/HEAD").write_text("ref: refs/heads/main\n")
    (heads / "main").write_text(f"{FIRST}\n")
    return package


def test_a_branch(package):
    assert checkout(package) == package.parents[1]
    assert commit(package) == FIRST


def test_a_detached_head(package):
    (package.parents[1] / ".git/HEAD").write_text(SECOND)
    assert commit(package) == SECOND


def test_a_branch_that_git_has_packed(package):
    git = package.parents[1] / ".git"
    (git / "refs/heads/main").unlink()
    (git / "packed-refs").write_text(f"# pack-refs\n{FIRST} refs/heads/other\n{SECOND} refs/heads/main\n^{FIRST}\n")
    assert commit(package) == SECOND


def test_a_linked_working_tree(package, tmp_path):
    other = tmp_path / "elsewhere/src/accord"
    other.mkdir(parents=True)
    linked = tmp_path / ".git/worktrees/elsewhere"
    linked.mkdir(parents=True)
    (linked / "HEAD").write_text("ref: refs/heads/topic\n")
    (linked / "commondir").write_text("../..\n")
    (tmp_path / ".git/refs/heads/topic").write_text(SECOND)
    (tmp_path / "elsewhere/.git").write_text(f"gitdir: {linked}\n")
    assert commit(other) == SECOND


def test_the_repository_around_an_installed_package_is_not_ours(package):
    installed = package.parents[1] / ".venv/lib/site-packages/accord"
    installed.mkdir(parents=True)
    assert checkout(installed) is None
    assert commit(installed) is None
    assert modified(installed) is None


@pytest.mark.parametrize("head", ["", "ref: refs/heads/gone", "garbage", "\x00", "ref: refs/heads/loop"])
def test_a_head_that_cannot_be_followed_is_no_commit(package, head):
    git = package.parents[1] / ".git"
    (git / "refs/heads/loop").write_text("ref: refs/heads/loop")
    (git / "HEAD").write_text(head)
    assert commit(package) is None


def test_it_agrees_with_git(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not installed")

    def git(*args):
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        return subprocess.run(["git", "-C", tmp_path, *identity, *args], check=True, capture_output=True, text=True)

    package = tmp_path / "src/accord"
    package.mkdir(parents=True)
    (package / "a.py").write_text("a = 1\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    assert commit(package) == git("rev-parse", "HEAD").stdout.strip()
    assert modified(package) is False
    modified.cache_clear()
    (package / "a.py").write_text("a = 2\n")
    assert modified(package) is True


def test_runs_note_it():
    noted = attempt(1)
    assert noted["commit"] == commit()
    assert noted["modified"] in (True, False, None)
