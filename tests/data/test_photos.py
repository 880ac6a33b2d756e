"""The photo bank, on packages made here; nothing is downloaded."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from stereopsis.data import photos, textures
from stereopsis.data.photos import Source, credit, gather, halve, needs_half, read_photos, read_table
from stereopsis.training.compression import Photos


def _png(seed, size=(80, 64)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return pixels, stream.getvalue()


@pytest.fixture
def package():
    """Rows and files of a package with twelve photographs."""
    rows, files, pixels = [], {}, {}
    for number in range(12):
        image, content = _png(number)
        path = f"package/{number}.png"
        sha256 = hashlib.sha256(content).hexdigest()
        rows.append(Source("npm", "fake", path, f"Author {number % 2}", "CC BY 4.0", sha256))
        files[path], pixels[sha256] = content, image
    return rows, files, pixels


def _fetch(files, calls):
    def fetch(name, folder):
        calls.append(name)
        if name != "npm:fake":
            raise ValueError("there is no such package.")
        archive = folder / "fake.tgz"
        with tarfile.open(archive, "w:gz") as bundle:
            for path, content in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(content)
                bundle.addfile(member, io.BytesIO(content))
        return archive

    return fetch


def test_photographs_are_stored_once_and_a_second_call_downloads_nothing(package, tmp_path):
    rows, files, pixels = package
    calls: list[str] = []
    assert gather(tmp_path, rows, fetch=_fetch(files, calls)) == []
    assert gather(tmp_path, rows, fetch=_fetch(files, calls)) == []
    assert calls == ["npm:fake"]
    bank = read_photos(tmp_path)
    assert [photo.source for photo in bank] == rows
    for photo in bank:
        np.testing.assert_array_equal(photo.pixels(), pixels[photo.source.sha256])
        assert (photo.height, photo.width, photo.halved) == (80, 64, False)
    assert len(list(tmp_path.iterdir())) == len(rows) + 1  # and the manifest
    assert credit(bank) == "12 photographs of the photo bank (12 CC BY 4.0; authors: Author 0, Author 1)"


def test_what_cannot_be_had_is_named_and_the_rest_is_gathered(package, tmp_path):
    rows, files, _ = package
    missing = Source("debian", "gone", "a.png", "Nobody", "CC0 1.0", "0" * 64)
    files = {**files, rows[1].path: b"another version"}
    del files[rows[2].path]
    problems = gather(tmp_path, [missing, *rows], fetch=_fetch(files, []))
    assert problems == [
        "gone (debian) cannot be had: there is no such package.",
        "package/1.png of fake differs from the file in the table; it was left out.",
        "fake does not contain package/2.png; it was left out.",
    ]
    assert [photo.source for photo in read_photos(tmp_path)] == [rows[0], *rows[3:]]


def test_an_interrupted_call_leaves_nothing_half_written(package, tmp_path, monkeypatch):
    rows, files, _ = package
    saved = np.save

    def stop(stream, pixels, **options):
        stream.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(photos.np, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        gather(tmp_path, rows, fetch=_fetch(files, []))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".gather-killed").mkdir()
    monkeypatch.setattr(photos.np, "save", saved)
    assert gather(tmp_path, rows, fetch=_fetch(files, [])) == []
    assert len(read_photos(tmp_path)) == 12
    assert not list(tmp_path.glob(".*"))


def test_a_manifest_without_its_files_is_refused_and_mended(package, tmp_path):
    rows, files, _ = package
    gather(tmp_path, rows, fetch=_fetch(files, []))
    read_photos(tmp_path)[0].file.unlink()
    with pytest.raises(ValueError, match="does not exist"):
        read_photos(tmp_path)
    gather(tmp_path, rows, fetch=_fetch(files, []))
    assert len(read_photos(tmp_path)) == 12


def test_photographs_out_of_the_table_are_removed_and_other_files_stay(package, tmp_path):
    rows, files, _ = package
    gather(tmp_path, rows, fetch=_fetch(files, []))
    (tmp_path / "mine.npy").write_bytes(b"mine")
    gather(tmp_path, rows[:3], fetch=_fetch(files, []))
    assert len(list(tmp_path.glob("*.npy"))) == 4


def test_training_takes_the_training_photographs_only(package, tmp_path, monkeypatch):
    rows, files, pixels = package
    gather(tmp_path, rows, fetch=_fetch(files, []))
    monkeypatch.setenv(photos.VARIABLE, str(tmp_path))
    monkeypatch.setattr("stereopsis.training.compression.installed_photos", list)
    monkeypatch.setattr(textures, "installed_photos", list)
    held_out = [row for row in rows if row.split == "validation"]
    training = Photos(torch.device("cpu"))
    assert len(training) == 12 - len(held_out)
    shown = {image.permute(1, 2, 0).numpy().tobytes() for image in training.images}
    assert shown == {pixels[row.sha256].tobytes() for row in rows if row.split == "train"}
    generator = torch.Generator().manual_seed(0)
    assert training.crop((32, 32), generator).shape == (3, 32, 32)
    bank = textures.make_bank(photo_crops=2, drawn=1)
    assert len(bank) == 1 + 2 * len(training)
    assert len(bank.sources) == len(training)
    validation = training.held_out()
    assert len(validation) == (len(held_out) or len(training))


def test_the_table_is_free_and_each_photograph_keeps_its_side():
    rows = read_table()
    assert len(rows) >= 30
    held_out = [row for row in rows if row.split == "validation"]
    assert 0.05 < len(held_out) / len(rows) < 0.2


@pytest.mark.parametrize("licence", ["CC BY-SA 4.0", "GPL-3", "CC BY-NC 4.0"])
def test_other_licences_are_refused(tmp_path, licence):
    table = tmp_path / "table.json"
    group = {"ecosystem": "npm", "package": "p", "folder": "package", "photos": [["a.png", "A", licence, "0" * 64]]}
    table.write_text(json.dumps([group]))
    with pytest.raises(ValueError, match="allowed are"):
        read_table(table)


def test_blocks_and_softness_are_halved():
    sharp = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    assert not needs_half(sharp)
    coarse = Image.fromarray(sharp[:64, :64])
    assert needs_half(np.asarray(coarse.resize((512, 512), Image.Resampling.BICUBIC)))
    assert needs_half(np.asarray(coarse.resize((512, 512), Image.Resampling.NEAREST)))
    assert halve(sharp).shape == (256, 256, 3)
    assert abs(int(halve(sharp)[0, 0, 0]) - sharp[:2, :2, 0].mean()) <= 0.5
