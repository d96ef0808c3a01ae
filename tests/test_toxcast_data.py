"""ToxCast-40: the file that comes with the package, and splits of it."""

import sys
from importlib import resources

import numpy as np
import pytest

from accord.bench.data import toxcast
from accord.errors import DataError, DependencyError, OptionError


def shipped():
    return (resources.files("accord.bench.data") / "files" / toxcast.FILE).read_bytes()


def test_the_file_holds_every_outcome_of_40_assays():
    molecules = toxcast.load()
    assert len(molecules) == len(molecules.smiles) == len(set(molecules.smiles)) == 7934
    assert molecules.fingerprints.shape == (7934, 1024)
    assert molecules.labels.shape == (7934, len(toxcast.TASKS)) == (7934, 40)
    for array in (molecules.fingerprints, molecules.labels):
        assert array.dtype == np.uint8
        assert set(np.unique(array)) == {0, 1}
    share = molecules.labels.mean(axis=0)
    assert share[0] == pytest.approx(0.22, abs=0.005)
    assert share[-1] == pytest.approx(0.04, abs=0.005)
    assert len(set(toxcast.TASKS)) == 40


def test_its_licence_is_beside_it():
    text = (resources.files("accord.bench.data") / "files" / "toxcast40.LICENSE.txt").read_text()
    assert "Permission is hereby granted, free of charge" in text


def test_fingerprints_are_those_of_the_molecules():
    pytest.importorskip("rdkit")
    from rdkit import Chem
    from rdkit.Chem import rdFingerprintGenerator

    molecules = toxcast.load()
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=toxcast.BITS)
    for row in range(0, len(molecules), 97):
        fingerprint = generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(molecules.smiles[row]))
        assert np.array_equal(fingerprint, molecules.fingerprints[row])


@pytest.mark.parametrize("damage", [lambda data: data[:5000], lambda data: b"", lambda data: data[:-1] + b"\1"])
def test_a_damaged_file_is_told(damage):
    with pytest.raises(DataError, match=r"/some/toxcast40.npz .* was cut off or altered. Install the package again"):
        toxcast.parse(damage(shipped()), "/some/toxcast40.npz")


# Splits


def random(seed=0):
    return np.random.default_rng(seed)


def test_a_random_split_has_the_sizes_asked_for_and_every_molecule_once():
    labels = toxcast.load().labels
    train, val, test = toxcast.split(labels, 700, 900, random())
    assert (len(val), len(test)) == (700, 900)
    assert sorted([*train, *val, *test]) == list(range(len(labels)))
    for part in (train, val, test):
        assert labels[part].mean(axis=0).min() > 0
    again = toxcast.split(labels, 700, 900, random())
    assert all(np.array_equal(a, b) for a, b in zip((train, val, test), again, strict=True))
    assert not np.array_equal(test, toxcast.split(labels, 700, 900, random(1))[2])


def test_a_split_by_groups_keeps_them_whole():
    labels = toxcast.load().labels
    groups = random(5).zipf(1.5, len(labels)).clip(max=3000)
    parts = toxcast.split(labels, 700, 900, random(), groups)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    for one in range(3):
        for other in range(one):
            assert not set(groups[parts[one]]) & set(groups[parts[other]])
    largest = np.bincount(groups).argmax()
    assert 2 * (groups == largest).sum() > 700
    assert largest in groups[parts[0]]
    assert abs(len(parts[1]) - 700) <= 350  # half of the largest group that may be placed there
    assert abs(len(parts[2]) - 900) <= 350


def test_every_set_has_active_and_inactive_molecules_even_where_chance_would_not_have_it():
    labels = np.zeros((60, 1), np.uint8)
    labels[:6] = 1
    plain = random()
    lucky = sum(labels[plain.permutation(60)[:10]].any() for _ in range(50))
    assert lucky < 45
    for seed in range(50):
        parts = toxcast.split(labels, 10, 10, random(seed))
        assert all(0 < labels[part].sum() < len(part) for part in parts)


def test_a_split_that_cannot_be_is_refused_with_the_remedy():
    labels = np.zeros((60, 1), np.uint8)
    labels[0] = 1
    with pytest.raises(DataError, match="of all 1 assays in each set: use more molecules, or larger validation"):
        toxcast.split(labels, 10, 10, random())


@pytest.mark.parametrize(("val", "test"), [(0, 10), (10, 0), (30, 30)])
def test_sizes_out_of_range_are_refused(val, test):
    with pytest.raises(OptionError, match=f"val={val} and test={test} must be positive, and leave some of 60"):
        toxcast.split(np.zeros((60, 1), np.uint8), val, test, random())


def test_scaffolds_group_molecules_with_the_same_rings():
    pytest.importorskip("rdkit")
    groups = dict(zip(toxcast.load().smiles, toxcast.scaffolds(), strict=True))
    chains = {group for smiles, group in groups.items() if not any(character.isdigit() for character in smiles)}
    assert len(chains) == 1  # no ring closure, no ring
    assert groups["[O-][N+](=O)C1=CC=C(Cl)C=C1"] not in chains
    assert len(set(groups.values())) > 1000


def test_without_rdkit_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit", None)
    toxcast.scaffolds.cache_clear()
    with pytest.raises(DependencyError, match=r"accord\[experiments\].*split='random'"):
        toxcast.scaffolds()
