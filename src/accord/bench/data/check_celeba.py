"""Checks of CelebA in its official layout: two lists, and a folder of aligned images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from accord.bench.data.finding import Advance, Faults, Finding, named

ATTRIBUTES, PARTITION, IMAGES = "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"
COUNT, TASKS = 202_599, 40
SPLITS = {"0": ("train", 162_770), "1": ("validation", 19_867), "2": ("test", 19_962)}
_FOLDERS = ("", "Anno", "Eval", "Img")
_REMEDY = (
    "download it from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html: Anno/list_attr_celeba.txt, "
    "Eval/list_eval_partition.txt and Img/img_align_celeba.zip, unpacked"
)


def fits(root: Path) -> bool:
    """Whether one of the lists, or the folder of images, is there."""
    return any(_found(root, name) for name in (ATTRIBUTES, PARTITION, IMAGES))


def check(root: Path, advance: Advance) -> Iterator[Finding]:
    """Whether lists and images are there, whole, and name the same images."""
    missing = [name for name in (ATTRIBUTES, PARTITION, IMAGES) if not _found(root, name)]
    for name in missing:
        yield Finding("wrong", name, f"missing in {root} (and in Anno, Eval and Img there); {_REMEDY}")
    names: dict[str, list[str]] = {}
    if ATTRIBUTES not in missing:
        yield from _attributes(_there(root, ATTRIBUTES), names)
    if PARTITION not in missing:
        yield from _partition(_there(root, PARTITION), names)
    if len(names) == 2 and set(names[ATTRIBUTES]) != set(names[PARTITION]):
        odd = sorted(set(names[ATTRIBUTES]) ^ set(names[PARTITION]))
        yield Finding("wrong", PARTITION, f"names other images than {ATTRIBUTES}: {named(odd)}")
    if IMAGES not in missing:
        listed = names.get(ATTRIBUTES) or names.get(PARTITION) or []
        yield from _images(_there(root, IMAGES), listed, advance)


def _attributes(path: Path, names: dict[str, list[str]]) -> Iterator[Finding]:
    lines = _lines(path)
    if len(lines) < 2:
        yield Finding("wrong", path.name, f"{len(lines)} lines: empty or cut off; {_REMEDY}")
        return
    head, rows = lines[1].split(), [line.split() for line in lines[2:]]
    names[ATTRIBUTES] = [row[0] for row in rows]
    yield Finding("ok", path.name, f"{len(rows):,} images, {len(head)} attributes")
    if len(head) != TASKS:
        yield Finding("wrong", path.name, f"line 2 names {len(head)} attributes, where CelebA has {TASKS}")
    if lines[0].strip() != str(len(rows)):
        text = f"line 1 announces {lines[0].strip()!r} images, {len(rows):,} follow: cut off or altered"
        yield Finding("wrong", path.name, text)
    odd = [n for n, row in enumerate(rows, start=3) if len(row) != len(head) + 1 or not {"1", "-1"}.issuperset(row[1:])]
    if odd:
        yield Finding("wrong", path.name, f"{len(odd):,} lines are not a name and {len(head)} of 1 or -1: {named(odd)}")
    if len(rows) != COUNT:
        yield Finding("wrong", path.name, f"{len(rows):,} images, where CelebA has {COUNT:,}")


def _partition(path: Path, names: dict[str, list[str]]) -> Iterator[Finding]:
    rows = [line.split() for line in _lines(path)]
    odd = [n for n, row in enumerate(rows, start=1) if len(row) != 2 or row[1] not in SPLITS]
    if odd:
        yield Finding("wrong", path.name, f"{len(odd):,} lines are not a name and 0, 1 or 2: {named(odd)}")
    good = [row for row in rows if len(row) == 2]
    names[PARTITION] = [row[0] for row in good]
    found = Counter(row[1] for row in good)
    for code, (split, count) in SPLITS.items():
        status = "ok" if found[code] == count else "wrong"
        text = f"{found[code]:,} images" + ("" if status == "ok" else f", where CelebA has {count:,}")
        yield Finding(status, f"{path.name}, {split}", text)


def _images(folder: Path, listed: list[str], advance: Advance) -> Iterator[Finding]:
    present = {path.name for path in folder.iterdir() if path.suffix == ".jpg"}
    lacking = sorted(set(listed) - present)
    if lacking:
        yield Finding("wrong", folder.name, f"{len(lacking):,} of the images listed are missing: {named(lacking)}")
    extra = sorted(present - set(listed)) if listed else []
    if extra:
        yield Finding("note", folder.name, f"{len(extra):,} images are not in the list: {named(extra)}")
    faults = Faults()
    sizes: Counter[tuple[int, int]] = Counter()
    for name in sorted(present):
        data = (folder / name).read_bytes()
        size = jpeg_size(data)
        if size is None:
            faults.add("not a JPEG image", name)
        elif not data.rstrip(b"\0").endswith(b"\xff\xd9"):
            faults.add("cut off: the end marker of JPEG is missing", name)
        else:
            sizes[size] += 1
            if size != (218, 178):
                faults.add(f"{size[0]} × {size[1]} pixels, where aligned images have 218 × 178", name)
        advance()
    yield from faults.findings(folder.name)
    if sizes:
        text = ", ".join(f"{count:,} × {height} × {width}" for (height, width), count in sizes.most_common(4))
        yield Finding("ok", folder.name, f"whole JPEG images: {text}")


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Height and width from the frame header of a JPEG file; None where there is none."""
    if data[:2] != b"\xff\xd8":
        return None
    place = 2
    while place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = data[place + 5 : place + 7], data[place + 7 : place + 9]
            return int.from_bytes(height, "big"), int.from_bytes(width, "big")
        place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return None


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


def _found(root: Path, name: str) -> Path | None:
    return next((path for folder in _FOLDERS if (path := root / folder / name).exists()), None)


def _there(root: Path, name: str) -> Path:
    path = _found(root, name)
    assert path is not None
    return path
