"""Scoring, fitting and drawing images through files, by the job and by the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import anomgen
from anomgen import MixtureDetector, batch
from anomgen.batch import inputs
from anomgen.cli.app import app
from anomgen.data import ImageFolder

SIDES = (6, 7)
RNG = np.random.default_rng(0)
RAMP = np.add.outer(np.arange(6), 2 * np.arange(7)) * 8.0
GREY = np.clip(RAMP + RNG.normal(60, 12, (80, *SIDES)), 0, 255).astype(np.uint8)
COLOUR = np.stack([GREY, GREY // 2, 255 - GREY], axis=3)


def detector_of(images: Any, **options: Any) -> MixtureDetector:
    settings = {"components": 1, "statistic": "typicality", "random_state": 0, **options}
    return MixtureDetector(**settings).fit(images)


def save(folder: Path, images: Any, suffix: str = "png") -> list[Path]:
    files = [folder / f"{i:02d}.{suffix}" for i in range(len(images))]
    folder.mkdir(parents=True, exist_ok=True)
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    return files


def run(*arguments: Any) -> int:
    """The exit code of a command line, run in this process."""
    with pytest.raises(SystemExit) as ended:
        app.meta([str(argument) for argument in arguments])
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def grey() -> MixtureDetector:
    return detector_of(GREY)


@pytest.fixture(scope="module")
def colour() -> MixtureDetector:
    return detector_of(COLOUR)


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """A folder of 20 images in two sub-folders, with a cut, an empty and a transparent file among them."""
    save(tmp_path / "tiles" / "good", GREY[:15])
    save(tmp_path / "tiles" / "crack", GREY[15:20, ::-1])
    cut, empty, clear = (tmp_path / "tiles" / "good" / f"{name}.png" for name in ("03cut", "90empty", "91clear"))
    cut.write_bytes((tmp_path / "tiles" / "good" / "00.png").read_bytes()[:60])
    empty.touch()
    Image.fromarray(np.zeros((*SIDES, 4), np.uint8)).convert("LA").save(clear)
    return tmp_path / "tiles"


# ---------------------------------------------------------------------- scoring


def test_every_image_of_a_folder_gets_a_score_beside_its_name(
    grey: MixtureDetector, tiles: Path, tmp_path: Path
) -> None:
    summary = batch.score_files(
        grey, tiles, tmp_path / "out", keep=["label"], chunk_rows=4, on_bad_row="quarantine", part_rows=10
    )
    assert [len(file.parts) for file in summary.files] == [3]
    scores = pd.read_parquet(tmp_path / "out")
    assert list(scores.columns) == ["row", "source", "file", "label", "score", "is_anomaly"]
    names = [f"crack/{i:02d}.png" for i in range(5)] + [f"good/{i:02d}.png" for i in range(15)]
    assert scores["file"].tolist() == names
    assert scores["label"].tolist() == ["crack"] * 5 + ["good"] * 15
    assert set(scores["source"]) == {str(tiles)}
    expected = grey.score_samples(np.concatenate([GREY[15:20, ::-1], GREY[:15]]))
    np.testing.assert_array_equal(scores["score"], expected)
    np.testing.assert_array_equal(scores["row"], [*range(9), *range(10, 21)])
    assert (summary.rows, summary.bad, summary.files[0].bad) == (20, 3, 3)
    assert json.loads((tmp_path / "out" / "_summary.json").read_text())["bad"] == 3
    assert batch.evaluate(tmp_path / "out", "label", "good")["auroc"] == 1.0


def test_bad_files_are_listed_with_their_reasons(grey: MixtureDetector, tiles: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"90empty\.png: it is empty"):
        batch.score_files(grey, tiles, tmp_path / "out")
    batch.score_files(grey, tiles, tmp_path / "out", on_bad_row="quarantine", overwrite=True)
    listed = pd.read_parquet(tmp_path / "out" / batch.QUARANTINE / "tiles-00000.parquet")
    assert list(listed.columns) == ["source", "row", "column", "reason", "value"]
    assert set(listed["source"]) == {str(tiles)}
    assert listed["row"].tolist() == [9, 21, 22]
    assert listed["value"].tolist() == [f"good/{name}.png" for name in ("03cut", "90empty", "91clear")]
    for reason, part in zip(listed["reason"], ("cannot be read", "empty", "transparent"), strict=True):
        assert part in reason
    batch.score_files(grey, tiles / "crack", tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out" / batch.QUARANTINE).exists()


@pytest.mark.parametrize("chunk_rows", [1, 7])
def test_no_byte_depends_on_the_chunks(
    grey: MixtureDetector, tiles: Path, tmp_path: Path, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch.score_files(grey, tiles, tmp_path / "whole", on_bad_row="skip")
    monkeypatch.setattr(inputs, "PIXELS", 3 * 42)
    told: list[int] = []
    batch.score_files(
        grey, tiles, tmp_path / "cut", chunk_rows=chunk_rows, progress=told.append, on_bad_row="skip", workers=3
    )
    assert max(told) == min(chunk_rows, 3)
    assert sum(told) == 23
    assert (tmp_path / "whole" / "tiles-00000.parquet").read_bytes() == (
        tmp_path / "cut" / "tiles-00000.parquet"
    ).read_bytes()


def test_arrays_and_files_named_singly(grey: MixtureDetector, tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", images=GREY[:9], kind=np.arange(9))
    head = bytes([0, 0, 8, 3]) + b"".join(side.to_bytes(4, "big") for side in (9, *SIDES))
    (tmp_path / "some-ubyte").write_bytes(head + GREY[:9].tobytes())
    files = save(tmp_path / "pictures", GREY[:9])
    expected = grey.score_samples(GREY[:9])
    for place in ("some.npz", "some-ubyte", files, str(tmp_path / "pictures" / "*.png"), ImageFolder(files)):
        given: Any = tmp_path / place if isinstance(place, str) else place
        batch.score_files(grey, given, tmp_path / "out", overwrite=True)
        [output] = (tmp_path / "out").glob("*.parquet")
        np.testing.assert_array_equal(pd.read_parquet(output)["score"], expected)
    assert output.name == "pictures-00000.parquet"
    assert pd.read_parquet(output)["file"].tolist() == [file.as_posix() for file in files]
    kept = {"keep": ["kind"], "overwrite": True}
    batch.score_files(grey, tmp_path / "some.npz", tmp_path / "out", **kept)
    assert pd.read_parquet(tmp_path / "out" / "some-00000.parquet")["kind"].tolist() == list(range(9))


@pytest.mark.parametrize("layout", ["first", "flat", "unit", "deep"])
def test_images_of_files_are_laid_out_and_scaled_as_in_training(
    colour: MixtureDetector, tmp_path: Path, layout: str
) -> None:
    """Whatever form the training images had, a PNG file of the same picture scores the same."""
    options: dict[str, Any] = {"image_shape": (*SIDES, 3)} if layout == "flat" else {}
    forms = {
        "first": COLOUR.transpose(0, 3, 1, 2),
        "flat": COLOUR.reshape(80, -1),
        "unit": COLOUR / 255.0,
        "deep": COLOUR.astype(np.uint16) * 257,
    }
    detector = detector_of(forms[layout], **options)
    save(tmp_path / "pictures", COLOUR[:5])
    batch.score_files(detector, tmp_path / "pictures", tmp_path / "out")
    scores = pd.read_parquet(tmp_path / "out" / "pictures-00000.parquet")["score"]
    np.testing.assert_allclose(scores, detector.score_samples(forms[layout][:5]), rtol=1e-6)
    np.testing.assert_allclose(scores, colour.score_samples(COLOUR[:5]), rtol=1e-4)


def test_rows_of_pixels_in_a_table(tmp_path: Path) -> None:
    flat = GREY.reshape(80, -1).astype(float)
    detector = detector_of(flat, image_shape=SIDES)
    pd.DataFrame(flat[:5]).rename(columns=str).assign(day=range(5)).to_parquet(tmp_path / "rows.parquet")
    batch.score_files(detector, tmp_path / "rows.parquet", tmp_path / "out", keep=["day"])
    scores = pd.read_parquet(tmp_path / "out" / "rows-00000.parquet")
    np.testing.assert_array_equal(scores["score"], detector.score_samples(flat[:5]))
    assert scores["day"].tolist() == list(range(5))


def test_images_are_resized_as_in_training(tmp_path: Path) -> None:
    large = np.kron(GREY, np.ones((1, 2, 3))).astype(np.uint8)
    save(tmp_path / "train", large)
    Image.fromarray(GREY[0]).save(tmp_path / "train" / "99.png")
    rows = batch.read_training_rows(tmp_path / "train", size=SIDES)
    detector = detector_of(rows, image_size=SIDES)
    batch.score_files(detector, tmp_path / "train", tmp_path / "out")
    scores = pd.read_parquet(tmp_path / "out" / "train-00000.parquet")["score"]
    np.testing.assert_array_equal(scores, detector.score_samples(rows))
    np.testing.assert_allclose(scores[:80], detector.score_samples(large), rtol=1e-6)


def test_what_does_not_fit_is_named_before_the_first_image(
    grey: MixtureDetector, colour: MixtureDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "grey", GREY[:3])
    save(tmp_path / "colour", COLOUR[:3])
    save(tmp_path / "wide", [np.tile(image, (1, 2)) for image in GREY[:3]])
    save(tmp_path / "mixed", [GREY[0], GREY[0].T])
    np.savez(tmp_path / "wide.npz", X=np.zeros((3, 9, 9), np.uint8))
    np.savez(tmp_path / "float.npz", X=np.full((3, *SIDES), np.nan))
    monkeypatch.setattr(MixtureDetector, "score_samples", lambda *_: pytest.fail("scored before all was checked"))
    for detector, place, message in (
        (grey, "colour", r"colour/00\.png is colour, but the detector was fitted on grey images; .*mode='L'"),
        (colour, "grey", r"grey/00\.png is grey, but the detector was fitted on colour images; .*mode='RGB'"),
        (grey, "wide", r"wide/00\.png has 6 x 14 pixels, but the detector was fitted on images of 6 x 7.*image_size="),
        (grey, "wide.npz", r"wide\.npz does not fit the detector: .*\(9, 9\).*\(6, 7\)"),
        (grey, "float.npz", r"float\.npz does not fit the detector: .*nan"),
    ):
        with pytest.raises(batch.SchemaError, match=message):
            batch.score_files(detector, [tmp_path / "grey"] * (detector is grey) + [tmp_path / place], tmp_path / "out")
    with pytest.raises(ValueError, match=r"mixed/00\.png has 6 x 7 pixels and .*mixed/01\.png has 7 x 6"):
        batch.score_files(grey, tmp_path / "mixed", tmp_path / "out")
    with pytest.raises(batch.SchemaError, match=r"no 'day' to keep: a folder of images has 'label'"):
        batch.score_files(grey, tmp_path / "grey", tmp_path / "out", keep=["day"])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match="nothing holds no"):
        batch.score_files(grey, tmp_path / "nothing", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_pixel_is_found_in_its_file(tmp_path: Path) -> None:
    images = GREY / 255.0
    detector = detector_of(images)
    spoilt = images.copy()
    spoilt[30, 2, 3] = np.nan
    np.savez(tmp_path / "late.npz", X=spoilt)
    [late] = inputs.open_inputs(detector, tmp_path / "late.npz", chunk_rows=8)
    with pytest.raises(ValueError, match=r"late\.npz: row 30: its pixel \(2, 3\) is no number \('nan'\)"):
        list(late.chunks(inputs.Span(0, 80)))


def test_other_colours_are_converted_on_request(grey: MixtureDetector, tmp_path: Path) -> None:
    save(tmp_path / "colour", np.repeat(GREY[:3, :, :, None], 3, axis=3))
    batch.score_files(grey, tmp_path / "colour", tmp_path / "out", mode="L")
    scores = pd.read_parquet(tmp_path / "out" / "colour-00000.parquet")["score"]
    np.testing.assert_array_equal(scores, grey.score_samples(GREY[:3]))


def test_a_table_model_takes_no_images(numbers: np.ndarray, tmp_path: Path) -> None:
    detector = MixtureDetector(random_state=0).fit(numbers)
    save(tmp_path / "pictures", GREY[:3])
    for given in (tmp_path / "pictures", ImageFolder(tmp_path / "pictures")):
        with pytest.raises((FileNotFoundError, batch.SchemaError), match=r"holds no \.parquet|fitted on a table"):
            batch.score_files(detector, given, tmp_path / "out")
    np.savez(tmp_path / "rows.npz", X=numbers)
    with pytest.raises(ValueError, match="fitted on a table"):
        batch.score_files(detector, tmp_path / "rows.npz", tmp_path / "out", maps=tmp_path / "maps")


# ---------------------------------------------------------------------- maps


def test_maps_are_written_beside_the_scores(grey: MixtureDetector, tmp_path: Path) -> None:
    spoilt = GREY[:3].copy()
    spoilt[1, 2:4, 3:5] = 255
    save(tmp_path / "a", spoilt)
    Image.fromarray(GREY[3]).save(tmp_path / "a" / "00.bmp")
    np.savez(tmp_path / "b.npz", X=spoilt)
    batch.score_files(
        grey, [tmp_path / "a", tmp_path / "b.npz"], tmp_path / "out", maps=tmp_path / "maps", chunk_rows=2
    )
    drawn = {path.relative_to(tmp_path / "maps").as_posix() for path in (tmp_path / "maps").rglob("*.png")}
    assert drawn == {f"a/{name}.png" for name in ("00", "00.bmp", "01", "02")} | {f"b/{i}.png" for i in range(3)}
    expected = anomgen.explain.overlay(spoilt, grey.score_map(spoilt))
    for name in ("a/01.png", "b/1.png"):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "maps" / name)), expected[1])
    assert np.ptp(expected[1][2:4, 3:5], axis=2).min() > 0
    inputs = [tmp_path / "a", tmp_path / "b.npz"]
    with pytest.raises(batch.ModelMismatch, match="option maps was"):
        batch.score_files(grey, inputs, tmp_path / "out", maps=tmp_path / "other")


def test_maps_never_replace_images(grey: MixtureDetector, tmp_path: Path) -> None:
    save(tmp_path / "all" / "a", GREY[:3])
    before = (tmp_path / "all" / "a" / "00.png").read_bytes()
    for maps in ("all/a", "all/a/maps", "all"):
        with pytest.raises(ValueError, match="lie one in the other; name another folder"):
            batch.score_files(grey, tmp_path / "all" / "a", tmp_path / "out", maps=tmp_path / maps, overwrite=True)
    save(tmp_path / "mine", GREY[:1])
    with pytest.raises(FileExistsError, match="mine exists and is not empty"):
        batch.score_files(grey, tmp_path / "all", tmp_path / "out", maps=tmp_path / "mine")
    assert (tmp_path / "all" / "a" / "00.png").read_bytes() == before
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------- training rows, drawn rows


def test_training_images_by_label(tiles: Path) -> None:
    with pytest.raises(ValueError, match=r"90empty\.png: it is empty"):
        batch.read_training_rows(tiles)
    every = batch.read_training_rows(tiles, on_bad="quarantine")
    assert isinstance(every, ImageFolder)
    assert len(every) == 20
    good = batch.read_training_rows(tiles, "label", "good", on_bad="quarantine")
    np.testing.assert_array_equal(good.read(), GREY[:15])
    with pytest.raises(ValueError, match="no row has fine in 'label', which holds crack, good"):
        batch.read_training_rows(tiles, "label", "fine", on_bad="quarantine")
    with pytest.raises(ValueError, match="has no column 'kind': a folder of images has 'label'"):
        batch.read_training_rows(tiles, "kind", on_bad="quarantine")
    (tiles / "labels.csv").write_text("a\n1\n")
    with pytest.raises(ValueError, match="holds images and other rows"):
        batch.read_training_rows(tiles, on_bad="quarantine")


# ---------------------------------------------------------------------- command line


def test_the_command_line_from_a_folder_to_a_folder(
    tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ("fit", tiles, "--model", "mixture", "--out", tmp_path / "model", "--set", "statistic=typicality")
    assert run(*fit, "--label", "label", "--normal", "good") == 3
    assert "90empty.png: it is empty" in capsys.readouterr().err
    assert run(*fit, "--label", "label", "--normal", "good", "--skip-bad") == 0
    told = capsys.readouterr().out
    assert "15 grey 6 x 7 images" in told
    assert "3 unreadable files, first good/03cut.png" in told
    scored = ("score", tmp_path / "model", tiles, "--out", tmp_path / "out", "--label", "label", "--normal", "good")
    assert run(*scored, "--maps", tmp_path / "maps") == 3
    assert "90empty.png: it is empty" in capsys.readouterr().err
    assert run(*scored, "--maps", tmp_path / "maps", "--on-bad-row", "quarantine") == 0
    told = capsys.readouterr().out
    assert "20 rows" in told
    assert "3 of 23" in told
    assert str(tmp_path / "out" / "_quarantine") in told
    assert len(ImageFolder(tmp_path / "maps")) == 20
    assert run("sample", tmp_path / "model", "-n", 3, "--out", tmp_path / "drawn", "--allow-copies") == 0
    assert "3 grey 6 x 7 images" in capsys.readouterr().out
    assert ImageFolder(tmp_path / "drawn" / "train").shape == (3, *SIDES)
    assert run("sample", tmp_path / "model", "-n", 3, "--out", tmp_path / "drawn.npz", "--allow-copies") == 0
    with np.load(tmp_path / "drawn.npz") as stored:
        np.testing.assert_array_equal(stored["X"], ImageFolder(tmp_path / "drawn" / "train").read())


def test_the_command_line_resizes_and_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "train", GREY[:30])
    save(tmp_path / "train", np.repeat(np.tile(GREY[30:60, :, :, None], (1, 2, 1, 1)), 3, axis=3), "bmp")
    options = ("--model", "mixture", "--set", "statistic=typicality")
    fit = ("fit", tmp_path / "train", "--out", tmp_path / "model", *options)
    assert run(*fit) == 3
    assert "images differ in kind" in capsys.readouterr().err
    assert run(*fit, "--mode", "L") == 3
    assert re.search(r"images differ in size: .* 12 x 7 pixels and .* 6 x 7 .*image_size=", capsys.readouterr().err)
    assert run(*fit, "--mode", "L", "--set", "image_size=6,7") == 0
    assert "60 grey 6 x 7 images" in capsys.readouterr().out
    score = ("score", tmp_path / "model", tmp_path / "train", "--out", tmp_path / "out")
    assert run(*score) == 3
    assert run(*score, "--mode", "L") == 0
    assert len(pd.read_parquet(tmp_path / "out" / "train-00000.parquet")) == 60


MEASURE = """
import re, sys
from pathlib import Path
from anomgen import batch
summary = batch.score_files(sys.argv[1], sys.argv[2], sys.argv[3], chunk_rows=250)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(summary.rows, int(peak[1]) // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    large = RNG.integers(0, 256, (40, 64, 64)).astype(np.uint8)
    detector_of(large).save(tmp_path / "model")
    contents = [file.read_bytes() for file in save(tmp_path / "few", large)]
    peaks = {}
    # Both are many chunks: several are in flight at a time.
    for n in (3_000, 9_000):
        (tmp_path / str(n)).mkdir()
        for i in range(n):
            (tmp_path / str(n) / f"{i}.png").write_bytes(contents[i % 40])
        command = [
            sys.executable,
            "-c",
            MEASURE,
            str(tmp_path / "model"),
            str(tmp_path / str(n)),
            str(tmp_path / f"o{n}"),
        ]
        scored, peaks[n] = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
        assert scored == n
    assert peaks[9_000] < peaks[3_000] + 30, f"peak resident memory in MiB by images: {peaks}"
