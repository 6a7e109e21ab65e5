"""The images: read exactly, refused when broken, told apart by name and hash."""

import gzip
import hashlib
import struct

import numpy as np
import pytest
from joulebook.errors import BadInput, JoulebookError
from joulebook_studies.data import FASHION, find_digits, load_images, read_digits, read_fashion, read_idx


def idx(shape, values):
    return gzip.compress(struct.pack(f">3sB{len(shape)}I", b"\0\0\x08", len(shape), *shape) + bytes(values))


def write_set(folder, train=3, test=2):
    for part, count in (("train", train), ("t10k", test)):
        pixels = [i % 256 for i in range(count * 784)]
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(idx((count, 28, 28), pixels))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx((count,), range(count)))


def write_digits(path, rows=10):
    lines = "".join(",".join(["7"] * 784 + [str(label)]) + "\n" for label in range(rows))
    path.write_bytes(gzip.compress(lines.encode()))


def test_idx_is_read_in_row_order(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(idx((2, 3), [1, 2, 3, 4, 5, 6]))
    assert read_idx(path).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    "content",
    [
        b"not gzip",
        gzip.compress(b"\0\0\x09\x01" + struct.pack(">I", 1) + b"x"),
        idx((2, 3), [1, 2]),
        idx((2, 3), [1] * 6)[:-6],
        gzip.compress(b"\0"),
    ],
    ids=["not gzip", "not bytes", "too short", "cut off", "no header"],
)
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "broken.gz"
    path.write_bytes(content)
    with pytest.raises(JoulebookError, match=r"cannot read .*broken\.gz"):
        read_idx(path)


def test_fashion_is_read_whole_with_its_hash(tmp_path):
    write_set(tmp_path)
    images = read_fashion(tmp_path)
    assert images.train_x.shape == (3, 28, 28)
    assert images.test_y.tolist() == [0, 1]
    joined = b"".join((tmp_path / name).read_bytes() for name in images.files)
    assert images.sha256 == hashlib.sha256(joined).hexdigest()


def test_digits_are_split_once_and_for_all(tmp_path):
    write_digits(tmp_path / "digits.csv.gz")
    images = read_digits(tmp_path / "digits.csv.gz")
    again = read_digits(tmp_path / "digits.csv.gz")
    assert (len(images.train_x), len(images.test_x)) == (8, 2)
    assert sorted([*images.train_y, *images.test_y]) == list(range(10))
    assert images.train_y.tolist() == again.train_y.tolist()


def test_digits_of_another_shape_are_refused(tmp_path):
    (tmp_path / "wine.csv.gz").write_bytes(gzip.compress(b"1,2,3\n4,5,6\n"))
    with pytest.raises(JoulebookError, match="784 pixels"):
        read_digits(tmp_path / "wine.csv.gz")


def test_the_first_set_that_is_there_is_taken(tmp_path):
    write_set(tmp_path)
    assert load_images(tmp_path).name == "Fashion-MNIST"


def test_without_any_set_the_remedy_is_a_command(tmp_path, monkeypatch):
    monkeypatch.setattr("joulebook_studies.data.find_digits", lambda: None)
    with pytest.raises(JoulebookError) as caught:
        load_images(tmp_path / "nowhere")
    assert "apt-get install dataset-fashion-mnist" in caught.value.remedy


def test_cutting_keeps_name_and_hash(tmp_path):
    write_set(tmp_path)
    images = read_fashion(tmp_path)
    few = images.first(2, 5)
    assert (len(few.train_x), len(few.train_y), len(few.test_x)) == (2, 2, 2)
    assert (few.sha256, few.licence) == (images.sha256, images.licence)
    assert "2 training and 2 test images" in few.statement()
    with pytest.raises(BadInput):
        images.first(0, 1)


@pytest.mark.study
@pytest.mark.skipif(not FASHION.is_dir() and find_digits() is None, reason="no image set is installed")
def test_the_installed_set_has_every_class_in_both_parts():
    images = load_images()
    assert set(np.unique(images.train_y)) == set(np.unique(images.test_y)) == set(range(10))
    assert images.train_x.max() == 255
