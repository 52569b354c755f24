"""Calibration data from every kind of source, and the messages for data that does not fit."""

from __future__ import annotations

import operator
import zipfile

import numpy as np
import pytest

from qcompiler.calibration.data import open_calibration
from qcompiler.errors import CalibrationError

ONE = {"image": ((1, 3, 4, 5), np.float32)}
TWO = {"ids": ((1, 6), np.int64), "mask": ((1, 6), np.float32)}
IMAGES = np.random.default_rng(0).normal(size=(10, 3, 4, 5)).astype(np.float32)
IDS = np.arange(48).reshape(8, 6)
MASK = (IDS % 5 > 0).astype(np.float32)


def stacked(feeds, name="image"):
    return np.concatenate([feed[name] for feed in feeds])


def check_images(data, expected=IMAGES):
    for _ in range(2):
        feeds = list(data)
        assert all(feed["image"].shape == (1, 3, 4, 5) and feed["image"].dtype == np.float32 for feed in feeds)
        np.testing.assert_array_equal(stacked(feeds), expected)
    assert operator.length_hint(data) == len(expected)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "array",
    [IMAGES, IMAGES[:, None], IMAGES[:1], IMAGES[0], np.asfortranarray(IMAGES), IMAGES.astype(np.float64)],
    ids=["stacked", "extra axis", "one", "one without batch axis", "fortran", "float64"],
)
def test_npz_of_one_input(tmp_path, save, array):
    expected = IMAGES if len(array) == 10 else IMAGES[:1]
    save(tmp_path / "a.npz", image=array)
    check_images(open_calibration(tmp_path / "a.npz", ONE), expected)
    save(tmp_path / "b.npz", anything=array)
    check_images(open_calibration(str(tmp_path / "b.npz"), ONE), expected)
    save(tmp_path / "c.npz", image=array, labels=np.zeros(3))
    check_images(open_calibration(tmp_path / "c.npz", ONE), expected)


def test_npy_and_folder(tmp_path):
    np.save(tmp_path / "0.npy", IMAGES[:3])
    check_images(open_calibration(tmp_path / "0.npy", ONE), IMAGES[:3])
    np.savez(tmp_path / "1.npz", image=IMAGES[3:9])
    np.save(tmp_path / "2.npy", IMAGES[9])
    (tmp_path / "README.txt").write_text("about the data")
    check_images(open_calibration(tmp_path, ONE))
    check_images(open_calibration(tmp_path, ONE, limit=5), IMAGES[::2])


def test_sources_in_memory():
    check_images(open_calibration(IMAGES, ONE))
    check_images(open_calibration({"image": IMAGES}, ONE))
    check_images(open_calibration([{"image": image[None]} for image in IMAGES], ONE))
    check_images(open_calibration([image[None] for image in IMAGES], ONE))
    check_images(open_calibration(({"image": image[None]} for image in IMAGES), ONE))
    check_images(open_calibration(({"image": image[None]} for image in IMAGES), ONE, limit=3), IMAGES[:3])
    check_images(open_calibration([{"image": image[None]} for image in IMAGES], ONE, limit=5), IMAGES[::2])


def test_an_object_of_unknown_length_is_iterated_anew():
    class Samples:
        passes = 0

        def __iter__(self):
            self.passes += 1
            return iter([{"image": image[None]} for image in IMAGES])

    source = Samples()
    data = open_calibration(source, ONE, limit=4)
    assert [len(list(data)), len(list(data)), operator.length_hint(data), source.passes] == [4, 4, 0, 2]


def test_several_inputs(tmp_path):
    np.savez(tmp_path / "a.npz", mask=MASK.astype(bool), ids=IDS.astype(np.int32))
    for source in (tmp_path / "a.npz", {"ids": IDS, "mask": MASK}):
        feeds = list(open_calibration(source, TWO, limit=4))
        np.testing.assert_array_equal(stacked(feeds, "ids"), IDS[::2])
        np.testing.assert_array_equal(stacked(feeds, "mask"), MASK[::2])
        assert {name: a.dtype for name, a in feeds[0].items()} == {"ids": np.int64, "mask": np.float32}


def test_scalar_and_batched_inputs():
    inputs = {"rate": ((), "int64"), "x": ((4, 3), "float32")}
    feeds = list(open_calibration({"rate": np.array([8, 16]), "x": np.zeros((8, 3))}, inputs))
    assert [feed["rate"].item() for feed in feeds] == [8, 16]
    assert [(feed["rate"].shape, feed["x"].shape) for feed in feeds] == [((), (4, 3))] * 2


def test_lossless_integers():
    pixels = np.arange(60, dtype=np.uint8).reshape(1, 3, 4, 5)
    (feed,) = open_calibration(pixels, ONE)
    np.testing.assert_array_equal(feed["image"], pixels.astype(np.float32))


def test_files_are_read_sample_by_sample(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", image=IMAGES)
    reads = []
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: reads.append(n) or read(self, n))
    data = iter(open_calibration(tmp_path / "a.npz", ONE))
    reads.clear()
    next(data)
    assert max(reads) <= 4096 and IMAGES[0].nbytes in reads
    before = len(reads)
    next(data)
    assert IMAGES[0].nbytes in reads[before:]


BAD = IMAGES.copy()
BAD[4, 1, 2, 3] = np.nan


@pytest.mark.parametrize(
    ("source", "inputs", "message"),
    [
        ([], ONE, "the calibration data: empty, at least one sample"),
        (iter([]), ONE, "the calibration data: empty, at least one sample"),
        ({}, ONE, "the calibration data: holds no arrays"),
        (IMAGES[:0], ONE, "the calibration data: empty"),
        (7, ONE, "must be a path, a dict of arrays or an iterable of such dicts, found int"),
        ([3], ONE, "calibration sample 0: expected a dict of arrays by input name, found int"),
        (
            {"idx": IDS, "mask": MASK},
            TWO,
            "no array for input 'ids'; expected 'ids', 'mask', found 'idx', 'mask'; did you mean 'idx'?",
        ),
        ({"ids": IDS, "mask": MASK[:5]}, TWO, "differ in their number of samples: 'ids' 8, 'mask' 5"),
        (
            IMAGES.transpose(0, 2, 3, 1),
            ONE,
            "input 'image' expects shape [1, 3, 4, 5], or samples of it stacked along the first axis, "
            "found [10, 4, 5, 3]; transpose its axes",
        ),
        (IMAGES[..., :2], ONE, "found [10, 3, 4, 2]; reshape it"),
        ([{"image": IMAGES}], ONE, "calibration sample 0: holds 10 samples"),
        (BAD, ONE, "the calibration data, sample 4, input 'image': holds NaN in 1 elements"),
        ([{"image": BAD[i : i + 1]} for i in range(9)], ONE, "sample 4, input 'image': holds NaN"),
        (IMAGES.astype(np.float64) * 1e300, ONE, "expected float32, found float64 with values that float32"),
        ({"ids": IDS + 0.5, "mask": MASK}, TWO, "input 'ids': expected int64, found float64 with values"),
        ({"ids": IDS, "mask": IDS + 2**60}, TWO, "input 'mask': expected float32, found int64 with values"),
        (IMAGES.astype(str), ONE, "which holds no numbers"),
        ("/nowhere/data.npz", ONE, "/nowhere/data.npz: no such file or folder"),
    ],
)
def test_messages(source, inputs, message):
    with pytest.raises(CalibrationError) as error:
        list(open_calibration(source, inputs))
    assert message in str(error.value)


def test_messages_name_the_file(tmp_path):
    def message(path, inputs=ONE):
        with pytest.raises(CalibrationError) as error:
            list(open_calibration(path, inputs))
        assert str(path) in str(error.value)
        return str(error.value)

    np.savez(tmp_path / "nan.npz", image=BAD)
    assert "nan.npz, sample 4, input 'image': holds NaN" in message(tmp_path / "nan.npz")
    (tmp_path / "folder").mkdir()
    assert "an empty folder" in message(tmp_path / "folder")
    (tmp_path / "folder" / "cat.png").write_bytes(b"")
    assert "found .png; preprocess" in message(tmp_path / "folder")
    (tmp_path / "x.txt").write_text("1 2 3")
    assert "expected a .npz or .npy file" in message(tmp_path / "x.txt")
    np.savez(tmp_path / "empty.npz", image=IMAGES[:0])
    assert "empty, at least one sample" in message(tmp_path / "empty.npz")
    np.save(tmp_path / "ids.npy", IDS)
    assert "no array for input 'mask'" in message(tmp_path / "ids.npy", TWO)
    np.savez(tmp_path / "object.npz", image=np.full((1, 3, 4, 5), None))
    assert "found object, which holds no numbers" in message(tmp_path / "object.npz")
    for name in ("whole.npz", "whole.npy"):
        (np.savez if name.endswith("z") else np.save)(tmp_path / name, IMAGES)
        data = (tmp_path / name).read_bytes()
        for size in (0, 3, 100, len(data) // 2):
            (tmp_path / name).write_bytes(data[:size])
            assert "cannot be read" in message(tmp_path / name)
    np.savez(tmp_path / "damaged.npz", image=IMAGES)
    damaged = bytearray((tmp_path / "damaged.npz").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "damaged.npz").write_bytes(damaged)
    assert "Bad CRC-32" in message(tmp_path / "damaged.npz")
    with pytest.raises(CalibrationError, match="the limit is 0"):
        open_calibration(IMAGES, ONE, limit=0)
