"""QM9 from its published files: what is read, converted, dropped, cached and refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from accord.bench.data import qm9, qm9_source
from accord.bench.data.molecules import Molecules, read_molecules, write_molecules
from accord.bench.data.qm9_source import FILES, ROWS, TARGETS, Source, convert, source_folder, targets
from accord.errors import DataError, DependencyError, OptionError

pytest.importorskip("rdkit")
pl = pytest.importorskip("polars")
try:
    FOLDER = source_folder()
except DependencyError:
    pytest.skip("the data set is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(FOLDER)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path))
    return tmp_path


def test_rows_come_in_the_order_asked_for_from_all_files(source: Source) -> None:
    first = sum(rows for _, rows, _ in list(FILES.values())[:1])
    rows = [ROWS - 1, 0, first, first - 1, 5]
    whole = source.frame()
    assert len(whole) == ROWS
    assert whole["Index"].n_unique() == ROWS
    assert source.frame(rows).equals(whole[rows])


def test_atomization_energies_have_the_known_statistics(source: Source) -> None:
    values = targets(source.frame())
    known = {"u0": (-76.116, 10.3237), "u": (-76.580, 10.4151), "h": (-77.018, 10.4892), "g": (-70.837, 9.4983)}
    for name, (mean, deviation) in known.items():
        column = values[:, TARGETS.index(name)]
        assert column.mean() == pytest.approx(mean, abs=1e-3)
        assert column.std() == pytest.approx(deviation, abs=1e-3)
    assert np.isfinite(values).all()


def test_methane_and_benzene(source: Source) -> None:
    methane = convert(source.frame([0]))
    assert methane.atoms.tolist() == [[6, 0, 3, 4], *[[1, 0, 0, 0]] * 4]
    assert methane.bonds.tolist() == [[0, i, 1] for i in range(1, 5)]
    wanted = dict(zip(TARGETS, methane.targets[0], strict=True))
    assert wanted["u0"] == pytest.approx(-17.172, abs=1e-3)  # −396.0 kcal/mol
    assert wanted["homo"] == pytest.approx(-10.5499, abs=1e-3)
    assert (wanted["mu"], wanted["alpha"], wanted["r2"], wanted["cv"]) == (0.0, 13.21, 35.3641, 6.469)
    aromatic = next(m for m in _each(convert(source.frame(range(200, 260)))) if m.atoms[:, 1].sum() == 6)
    assert (aromatic.atoms[:6] == [6, 1, 2, 1]).all()
    assert (aromatic.bonds[:, 2] == 4).sum() == 6


def test_molecules_that_disagree_with_their_geometry_are_dropped(source: Source) -> None:
    frame = source.frame(range(40, 60))
    whole = convert(frame)
    assert len(whole) + whole.dropped == 20

    def broken(column: str, value: str) -> Molecules:
        first = pl.int_range(pl.len()) == 0
        return convert(frame.with_columns(pl.when(first).then(pl.lit(value)).otherwise(column).alias(column)))

    torn = "[" + ",".join(f"[{3 * i}.,0.,0.]" for i in range(frame["N_atoms"][0])) + "]"  # 3 Å from atom to atom
    for damaged in (broken("SMILES", "not a molecule"), broken("SMILES", "C"), broken("XYZ_Ang", torn)):
        assert damaged.dropped == whole.dropped + 1
        assert damaged.index.tolist() == whole.index.tolist()[1:]
        assert (damaged.positions == whole.positions[whole.sizes[0] :]).all()


def test_every_bond_is_short_and_every_pair_named_once(source: Source) -> None:
    for molecule in _each(convert(source.frame(range(1000, 1100)))):
        first, second, kind = molecule.bonds.astype(int).T
        lengths = np.linalg.norm(molecule.positions[first] - molecule.positions[second], axis=1)
        assert lengths.max() < qm9_source.LONGEST_BOND
        assert len({frozenset(pair) for pair in zip(first, second, strict=True)}) == len(kind)
        assert set(kind) <= {1, 2, 3, 4}


def test_a_smaller_subset_begins_a_larger_one(cache: Path) -> None:
    large = qm9.load(1100)
    files = sorted(path.name for path in (cache / "qm9" / "v1").glob("*.npz"))
    assert files == ["block-000.npz", "block-001.npz"]
    stamps = {path: path.stat().st_mtime_ns for path in (cache / "qm9").rglob("*.npz")}
    small = qm9.load(70)
    assert len(large) == 1100
    assert len(small) == 70
    for name, array in small.arrays().items():
        assert (array == large.arrays()[name][: len(array)]).all()
    assert stamps == {path: path.stat().st_mtime_ns for path in (cache / "qm9").rglob("*.npz")}


def test_the_order_never_changes() -> None:
    assert qm9.block_rows(0)[:4].tolist() == [40688, 129218, 125532, 105250]
    assert sorted(np.concatenate([qm9.block_rows(k) for k in range(-(-ROWS // qm9.BLOCK))])) == list(range(ROWS))


def test_the_cache_does_without_the_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = qm9.load(5)
    monkeypatch.setenv("ACCORD_QM9", "/nowhere")
    assert (qm9.load(5).targets == wanted.targets).all()
    with pytest.raises(DataError, match=r"cannot read /nowhere/qm9_part1.csv: No such file"):
        qm9.load(1030)


def test_two_processes_share_the_work(cache: Path) -> None:
    program = "from accord.bench.data.qm9 import load; print(load(2500).targets.sum())"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    answers = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(answers) == 1
    assert not list((cache / "qm9").rglob("*.tmp"))


def test_files_that_were_changed_are_refused(tmp_path: Path) -> None:
    first, *others = FILES
    for name in others:
        (tmp_path / name).symlink_to(FOLDER / name)
    with pytest.raises(DataError, match="cannot read"):
        qm9.load(5, source=tmp_path)
    data = (FOLDER / first).read_bytes()
    (tmp_path / first).write_bytes(data[:-10])
    with pytest.raises(DataError, match="truncated: it has 69,693,754 bytes, not 69,693,764"):
        qm9.load(5, source=tmp_path)
    (tmp_path / first).write_bytes(data[:-10] + b"0123456789")
    with pytest.raises(DataError, match="altered"):
        qm9.load(5, source=tmp_path)
    assert not list((tmp_path / "qm9").rglob("*.npz"))


def test_cache_files_that_were_changed_are_refused() -> None:
    qm9.load(5)
    path = qm9.block_file(0)
    data = path.read_bytes()
    middle = len(data) // 2
    for damaged in (data[:middle], data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], b"", b"abc"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"block-000.npz cannot be read .*; delete the file"):
            qm9.load(5)


def test_cache_files_carry_their_format_and_checksum(tmp_path: Path) -> None:
    molecules = qm9.load(5)
    path = tmp_path / "some.npz"
    write_molecules(path, molecules)
    again = read_molecules(path)
    for name, array in molecules.arrays().items():
        assert (again.arrays()[name] == array).all()
    with np.load(path) as archive:
        arrays = dict(archive)
    note = json.loads(arrays["note"].tobytes())

    def save(note: dict[str, object], **changed: np.ndarray) -> None:
        np.savez(path, **{**arrays, "note": np.frombuffer(json.dumps(note).encode(), np.uint8), **changed})

    save({**note, "format": 99})
    with pytest.raises(DataError, match="has format 99"):
        read_molecules(path)
    save(note, targets=arrays["targets"] + 1)
    with pytest.raises(DataError, match="checksum does not match"):
        read_molecules(path)
    save(note, targets=np.array([object()]))
    with pytest.raises(DataError, match="allow_pickle=False"):
        read_molecules(path)


def test_an_unusable_cache_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ACCORD_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set ACCORD_CACHE"):
        qm9.load(5)


def test_a_missing_data_set_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(DependencyError, match=r"accord\[qm9\]"):
        qm9.load(5)
    monkeypatch.setenv("ACCORD_QM9", str(FOLDER))
    assert len(qm9.load(5)) == 5


def test_impossible_sizes() -> None:
    with pytest.raises(OptionError, match="0 molecules"):
        qm9.load(0)


@pytest.mark.slow
def test_all_molecules(source: Source) -> None:
    with pytest.raises(OptionError, match=r"130,831 molecules were asked for; 130,378"):
        qm9.load(ROWS)
    molecules = qm9.load()
    assert (len(molecules), molecules.dropped) == (130_378, 453)
    assert len(set(molecules.index.tolist())) == 130_378


def _each(molecules: Molecules) -> list[Molecules]:
    """Every molecule by itself."""
    arrays = molecules.arrays()
    ends = {
        "atoms": np.cumsum(molecules.sizes)[:-1],
        "positions": np.cumsum(molecules.sizes)[:-1],
        "bonds": np.cumsum(molecules.bond_counts)[:-1],
    }
    parts = {name: np.split(a, ends.get(name, np.arange(1, len(molecules)))) for name, a in arrays.items()}
    return [Molecules(**{name: part[m] for name, part in parts.items()}) for m in range(len(molecules))]
