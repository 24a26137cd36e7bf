"""The page of a store, in a real browser."""

import base64
import io
import json
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import browser as open_browser
from browser import open_page
from PIL import Image
from playwright.sync_api import Browser, Locator, Page
from real import lite0, photos, tiny_backbone, tiny_processor

from vertebra.cli.show import add_show, run
from vertebra.extraction.extract import extract
from vertebra.extraction.recipe import Recipe
from vertebra.extraction.reduction import Reduction
from vertebra.extraction.show.level import box, measure_norms, pack
from vertebra.extraction.show.page import render, show
from vertebra.extraction.store.feature_store import FeatureStore
from vertebra.stages import Stage

TOLERANCE = 0.01
"""Of cosines on a page: vectors have 8 bits a direction. Pages state what they measure, which must be below."""
HOSTILE = [
    "<script>alert(1)</script>.png",
    "</script><script>alert(2)</script>",
    "<img src=x onerror=alert(3)>",
    "\"'`&amp;{{data}}<!--",
    "日本語/é/\u202etxt.exe\u2028",
    "\x01tab\tline\nnul\x00",
    "x" * 4096,
    "constructor",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Real weights on five photos, and a file that is no image."""
    folder = tmp_path_factory.mktemp("show")
    (folder / "broken.jpg").write_text("no image")
    sources = [*sorted(photos().iterdir()), folder / "broken.jpg"]
    recipe = Recipe(lite0(), options={"out_strides": (8, 16, 32)}, size=(160, 192), dtype="float32")
    extract([(path.name, path) for path in sources], folder / "lite0", recipe, progress=False)
    return FeatureStore(folder / "lite0")


@pytest.fixture(scope="module")
def page_file(store: FeatureStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return show(store, tmp_path_factory.mktemp("page") / "lite0.html")


def data_of(path: Path) -> Any:
    """The data of a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def cosines(store: FeatureStore, level: str, id_: str, row: int, column: int) -> dict[str, np.ndarray[Any, Any]]:
    """Cosine of a cell to all cells, by image, from the stored maps."""
    one = store[level][id_][:, row, column].double().numpy()
    found = {}
    for other in store.ids:
        cells = store[level][other].double().numpy()
        found[other] = np.einsum("c,chw->hw", one, cells) / np.linalg.norm(one) / np.linalg.norm(cells, axis=0)
    return found


def frame(page: Page, image: int) -> Locator:
    return page.locator(f"#tiles [data-image='{image}'] .frame")


def place(at: Locator, level: Any, row: int, column: int) -> dict[str, float]:
    """Where in a frame the middle of a cell is, or of what is seen of it."""
    found = at.bounding_box()
    image = int(at.locator("xpath=..").get_attribute("data-image") or -1)
    (left, top, width, height), (rows, columns) = level["boxes"][image], level["grids"][image]
    assert found is not None
    x, y = left + (column + 0.5) / columns * width, top + (row + 0.5) / rows * height
    return {"x": min(max(x, 0.005), 0.995) * found["width"], "y": min(max(y, 0.005), 0.995) * found["height"]}


def hovered(page: Page, level: Any, image: int, row: int, column: int) -> float:
    """The value that the page shows for a cell."""
    at = frame(page, image)
    at.hover(position=place(at, level, row, column))
    tip = page.locator("#tip")
    said = {name: tip.get_attribute(f"data-{name}") for name in ("image", "row", "column", "value")}
    assert (said["image"], said["row"], said["column"]) == (str(image), str(row), str(column))
    value = float(said["value"] or "nan")
    assert f"{value:.3f}".replace("-", "−") in tip.inner_text()
    return value


def readout(page: Page) -> tuple[str | None, ...]:
    return tuple(page.locator("#readout").get_attribute(f"data-{name}") for name in ("image", "level", "row", "column"))


def check_values(page: Page, store: FeatureStore, level: Any, id_: str, row: int, column: int) -> None:
    """Compare what the page shows for some cells of every image with cosines of the stored maps."""
    expected = cosines(store, level["name"], id_, row, column)
    for image, other in enumerate(store.ids):
        values = expected[other]
        best = float(page.locator(f"#tiles [data-image='{image}']").get_attribute("data-best") or "nan")
        assert best == pytest.approx(values.max(), abs=TOLERANCE)
        for cell in ((0, 0), np.unravel_index(values.argmax(), values.shape)):
            assert hovered(page, level, image, *map(int, cell)) == pytest.approx(values[cell], abs=TOLERANCE)


def test_a_patch_is_chosen_moved_and_compared(chromium: Browser, store: FeatureStore, page_file: Path) -> None:
    page, said = open_page(chromium, page_file)
    assert page.locator("h1").inner_text() == "lite0"
    assert page.locator("#summary").inner_text() == "5 images with maps, all shown here; 1 in quarantine"
    assert page.locator("#facts").get_by_text("tf_efficientnet_lite0").count() == 1
    assert page.locator("#facts code").last.get_attribute("title") == store.fingerprint
    assert page.locator("#tiles img").count() == 5
    levels = {level["name"]: level for level in data_of(page_file)["levels"]}
    assert all(level["largest_error"] < TOLERANCE for level in levels.values())
    frame(page, 2).click(position=place(frame(page, 2), levels["blocks.4"], 3, 5))
    assert readout(page) == ("2", "blocks.4", "3", "5")
    check_values(page, store, levels["blocks.4"], store.ids[2], 3, 5)
    for key, cell in (
        ("ArrowRight", ("3", "6")),
        ("ArrowDown", ("4", "6")),
        ("ArrowLeft", ("4", "5")),
        ("ArrowUp", ("3", "5")),
    ):
        page.keyboard.press(key)
        assert readout(page)[2:] == cell
    page.keyboard.press("ArrowUp")
    check_values(page, store, levels["blocks.4"], store.ids[2], 2, 5)
    for _ in range(4):
        page.keyboard.press("ArrowUp")
    assert readout(page)[2:] == ("0", "5"), "the patch stays in the image"
    page.get_by_role("radio", name="blocks.6").check()
    assert readout(page) == ("2", "blocks.6", "0", "2"), "the same place, on another grid"
    check_values(page, store, levels["blocks.6"], store.ids[2], 0, 2)
    frame(page, 4).focus()
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    assert readout(page)[:2] == ("4", "blocks.2")
    assert page.locator("#tiles .chosen").get_attribute("data-image") == "4"
    assert said == []


def test_tiles_are_sorted_by_what_is_most_similar(chromium: Browser, store: FeatureStore, page_file: Path) -> None:
    page, said = open_page(chromium, page_file)
    frame(page, 1).click()
    page.get_by_label("Most similar first").check()
    tops = page.locator("#tiles .tile").evaluate_all(
        """all => all.map(tile => {
            const box = tile.getBoundingClientRect();
            return [box.top, box.left, Number(tile.dataset.image), Number(tile.dataset.best)];
        })"""
    )
    order = [(image, best) for _, _, image, best in sorted(tops)]
    assert order[0][0] == 1
    assert [best for _, best in order[1:]] == sorted((best for _, best in order[1:]), reverse=True)
    assert said == []


def test_pictures_have_the_colours_of_their_cells(chromium: Browser, store: FeatureStore, page_file: Path) -> None:
    """The first principal component of all images together, by NumPy, is the red of all of them."""
    page, said = open_page(chromium, page_file)
    page.get_by_role("radio", name="blocks.6").check()
    reds = page.locator("#tiles canvas").evaluate_all(
        """all => all.map(canvas => {
            const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            return Array.from(data).filter((_, index) => index % 4 === 0);
        })"""
    )
    cells = np.concatenate([store["blocks.6"][id_].flatten(1).T.double().numpy() for id_ in store.ids])
    centred = cells - cells.mean(0)
    scores = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
    low, high = np.percentile(scores, [1, 99])
    expected = 255 * np.clip((scores - low) / (high - low), 0, 1)
    shown = np.concatenate(reds)
    assert min(np.abs(shown - expected).max(), np.abs(shown - (255 - expected)).max()) <= 2
    assert said == []


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_page_fits_its_window(chromium: Browser, page_file: Path, tmp_path: Path, scheme: str, width: int) -> None:
    page, said = open_page(chromium, page_file, color_scheme=scheme, viewport={"width": width, "height": 900})
    frame(page, 0).click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    picture = Image.open(io.BytesIO(page.screenshot())).convert("L")
    assert (picture.getpixel((2, 2)) > 200) == (scheme == "light")
    assert len(set(picture.get_flattened_data())) > 100
    assert said == []


def test_outliers_are_counted_listed_and_marked(chromium: Browser, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {f"{index}.png": rng.integers(100, 156, (32, 48, 3), dtype=np.uint8) for index in range(4)}
    images["2.png"][8:16, 24:32] = [[[255, 0, 0]], [[0, 255, 255]]] * 4
    recipe = Recipe(tiny_backbone(out_features=["stem", "stage2"]), processor=tiny_processor(), dtype="float32")
    extract(images, tmp_path / "out", recipe, progress=False)
    store = FeatureStore(tmp_path / "out")
    path = show(store, tmp_path / "page.html")
    norms = np.stack([store["stem"][id_].double().norm(dim=0).numpy() for id_ in store.ids])
    median = np.median(norms)
    far = np.abs(norms - median) > 6 * 1.4826 * np.median(np.abs(norms - median))
    (level,) = [level for level in data_of(path)["levels"] if level["name"] == "stem"]
    assert 0 < far.sum() == level["norms"]["outliers"]
    assert {(2, row, column) for row, column in np.argwhere(far[2]).tolist()} <= {
        tuple(entry[:3]) for entry in level["norms"]["listed"]
    }
    assert sum(level["norms"]["counts"]) == norms.size
    page, said = open_page(chromium, path)
    card = page.locator(".card", has_text="stem")
    assert f"{far.sum()} of {norms.size} cells" in card.inner_text()
    assert card.locator("svg .out").count() > 0
    card.locator("summary").click()
    image, row, column = np.unravel_index(np.abs(norms - median).argmax(), norms.shape)
    first = card.locator(".found button").first
    assert first.inner_text().split("\n")[:2] == [f"{image}.png", f"row {row}, column {column}"]
    first.click()
    assert readout(page) == (str(image), "stem", str(row), str(column))
    dots = page.locator(f"#tiles [data-image='{image}'] .dots i")
    assert dots.count() == far[image].sum()
    assert dots.first.is_visible()
    page.keyboard.press("o")
    assert not dots.first.is_visible()
    assert said == []


def test_images_that_are_one_vector(chromium: Browser, tmp_path: Path) -> None:
    recipe = Recipe(
        tiny_backbone(out_features=["stage1", "stage2"]), processor=tiny_processor(), dtype="float32",
        reductions={"stage2": Reduction(pool="mean")},
    )  # fmt: skip
    extract(photos(), tmp_path / "out", recipe, progress=False)
    store = FeatureStore(tmp_path / "out")
    path = show(store, tmp_path / "page.html", levels=["stage2"])
    (level,) = data_of(path)["levels"]
    page, said = open_page(chromium, path)
    frame(page, 3).click()
    assert "one vector for the whole image" in page.locator("#readout").inner_text()
    assert "click an image to see which others are like it" in page.locator("#level-note").inner_text()
    expected = cosines(store, "stage2", store.ids[3], 0, 0)
    for image, id_ in enumerate(store.ids):
        assert hovered(page, level, image, 0, 0) == pytest.approx(float(expected[id_][0, 0]), abs=TOLERANCE)
    assert not page.locator(".tile .mark").first.is_visible()
    assert said == []


def test_images_of_several_sizes(chromium: Browser, tmp_path: Path) -> None:
    processor = tiny_processor(size={"shortest_edge": 48}, default_to_square=False)
    recipe = Recipe(tiny_backbone(out_features=["stage2"]), processor=processor, dtype="float32")
    (tmp_path / "photos").mkdir()
    for index, path in enumerate(sorted(photos().iterdir())):
        Image.open(path).rotate(90 * index, expand=True).save(tmp_path / "photos" / path.name)
    extract(tmp_path / "photos", tmp_path / "out", recipe, progress=False)
    store = FeatureStore(tmp_path / "out")
    assert {tuple(store["stage2"][id_].shape) for id_ in store.ids} == {(8, 6, 9), (8, 9, 6)}
    path = show(store, tmp_path / "page.html")
    (level,) = data_of(path)["levels"]
    page, said = open_page(chromium, path)
    frame(page, 4).click(position=place(frame(page, 4), level, 2, 4))
    assert readout(page) == ("4", "stage2", "2", "4")
    check_values(page, store, level, store.ids[4], 2, 4)
    assert said == []


def test_ids_and_errors_stay_text(chromium: Browser, tmp_path: Path) -> None:
    """Ids that would be tags, that would end the data, that are long, that turn text around, and a store named like a tag."""
    photo = photos() / "cat.png"
    (tmp_path / "broken.jpg").write_text("no image")
    good = [(f"good/{id_}", photo) for id_ in HOSTILE]
    bad = [(f"bad/{id_}", tmp_path / "broken.jpg") for id_ in HOSTILE]
    out = tmp_path / "<b>{{data}}"
    extract([*good, *bad], out, Recipe(tiny_backbone(), processor=tiny_processor()), progress=False)
    path = show(out, tmp_path / "page.html")
    page, said = open_page(chromium, path)
    assert page.locator("h1").inner_text() == "<b>{{data}}"
    assert page.title() == "<b>{{data}} · features"
    assert page.locator("script").count() == 2
    assert page.locator("#tiles b, #failed b, h1 b, [onerror]").count() == 0
    store = FeatureStore(out)
    for image, id_ in enumerate(store.ids):
        shown = id_ if len(id_) <= 1000 else f"{id_[:500]} … {id_[-500:]}"
        assert page.locator(f"#tiles [data-image='{image}'] .id").text_content() == shown
        frame(page, image).click()
        assert page.locator("#readout bdi").text_content() == shown
    page.get_by_label("Filter the quarantine").fill("ALERT(3)")
    assert page.locator("#failed tr").count() == 1
    assert page.locator("#failed td").first.text_content() == f"bad/{HOSTILE[2]}"
    assert said == []


def test_nothing_else_may_run_or_be_asked(chromium: Browser, page_file: Path) -> None:
    page, _ = open_page(chromium, page_file)
    page.evaluate(
        "document.addEventListener('securitypolicyviolation', e => (window.refused ??= []).push(e.effectiveDirective))"
    )
    page.evaluate(
        """() => {
            const add = (tag, properties) => document.body.append(Object.assign(document.createElement(tag), properties));
            add("script", { textContent: "window.hacked = 1" });
            add("img", { src: "https://example.com/x.png" });
            add("style", { textContent: "body { display: none }" });
            add("div", { innerHTML: '<button id="x" onclick="window.hacked = 1">x</button>' });
            document.getElementById("x").click();
            return fetch("https://example.com").catch(() => null);
        }"""
    )
    page.wait_for_function("window.refused?.length >= 5")
    refused = set(page.evaluate("window.refused"))
    assert refused == {"script-src-elem", "script-src-attr", "img-src", "style-src-elem", "connect-src"}
    assert page.evaluate("window.hacked") is None


def test_photos_that_cannot_be_shown(chromium: Browser, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("changed.png", "gone.png", "here.png"):
        (folder / name).write_bytes((photos() / "cat.png").read_bytes())
    extract(folder, tmp_path / "out", Recipe(tiny_backbone(), processor=tiny_processor()), progress=False)
    (folder / "gone.png").unlink()
    Image.new("RGB", (20, 10)).save(folder / "changed.png")
    page, said = open_page(chromium, show(tmp_path / "out", tmp_path / "page.html"))
    assert page.locator("#tiles img").count() == 1
    assert page.locator("#tiles .gone").all_inner_texts() == [
        "ValueError: It was changed: it had 300 x 451 pixels, and has 10 x 20.",
        "FileNotFoundError: [Errno 2] No such file or directory: 'gone.png'",
    ]
    frame(page, 1).click()
    assert readout(page)[0] == "1"
    assert said == []


def test_a_store_without_maps(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_text("no image")
    recipe = Recipe(tiny_backbone(), processor=tiny_processor())
    extract(tmp_path / "broken.jpg", tmp_path / "out", recipe, progress=False)
    page, said = open_page(chromium, show(tmp_path / "out", tmp_path / "page.html"))
    assert page.locator("#summary").inner_text() == "0 images with maps; 1 in quarantine"
    assert page.locator("#failed tr").count() == 1
    assert not page.locator("#look").is_visible()
    assert said == []


def test_images_are_shown_as_the_backbone_got_them(tmp_path: Path) -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = (250, 120, 10)  # what the centre crop leaves
    Image.fromarray(image).save(tmp_path / "wide.png")
    processor = tiny_processor(size={"shortest_edge": 32}, do_center_crop=True, crop_size={"height": 32, "width": 32})
    extract(tmp_path / "wide.png", tmp_path / "out", Recipe(tiny_backbone(), processor=processor), progress=False)
    (shown,) = data_of(show(tmp_path / "out", tmp_path / "page.html"))["images"]
    seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(shown["picture"].partition(",")[2]))))
    assert seen.shape == (32, 32, 3)
    assert np.abs(seen[:, 3:-3].astype(int) - (250, 120, 10)).max() <= 6, "within what JPEG does"
    assert (shown["original"], shown["size"]) == ([40, 80], [32, 32])


def test_images_of_a_large_store_are_taken_evenly(tmp_path: Path) -> None:
    images = {f"{index:03d}": np.full((32, 48, 3), index, np.uint8) for index in range(100)}
    extract(images, tmp_path / "out", Recipe(tiny_backbone(), processor=tiny_processor()), progress=False)
    data = data_of(show(tmp_path / "out", tmp_path / "page.html", images=4))
    assert [image["id"] for image in data["images"]] == ["000", "033", "066", "099"]
    assert data["facts"]["images"] == 100
    assert data["images"][0]["reason"] == "It was given in memory, so there is no file to show."
    one = data_of(show(tmp_path / "out", tmp_path / "page.html", images=1))
    assert [image["id"] for image in one["images"]] == ["000"]


def test_what_cannot_be_shown_is_refused(store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"There is no level 'blocks\.3'\. Did you mean .*\? Stored are"):
        show(store, tmp_path / "page.html", levels=["blocks.3"])
    with pytest.raises(ValueError, match="images=0 must be at least 1"):
        show(store, tmp_path / "page.html", images=0)
    inside = Path(str(store.storage)) / "shards/page.html"
    with pytest.raises(ValueError, match="is inside the store, where files of others are refused; give another place"):
        show(store, inside)
    monkeypatch.setattr("vertebra.extraction.show.data.ROOM", 1000)
    with pytest.raises(
        ValueError, match=r"5 images of 3 levels are too much for one page: .* Take fewer images or levels"
    ):
        show(store, tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="holds no features"):
        show(tmp_path, tmp_path / "page.html")


def test_command(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    add_show(parser.add_subparsers())
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)))
    assert run(parser.parse_args(["show", str(store.storage)])) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'lite0.html'}\n"
    assert [level["name"] for level in data_of(tmp_path / "lite0.html")["levels"]] == [
        "blocks.2",
        "blocks.4",
        "blocks.6",
    ]
    named = ["show", str(store.storage), "--out", "new/page.html", "--images", "2", "--levels", "blocks.6", "--open"]
    assert run(parser.parse_args(named)) == 0
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'new/page.html'}\n"
    assert said.err == "There is no browser to open it in.\n"
    assert opened == [(tmp_path / "new/page.html").as_uri()]
    data = data_of(tmp_path / "new/page.html")
    assert (len(data["images"]), [level["name"] for level in data["levels"]]) == (2, ["blocks.6"])


def test_data_cannot_end_the_script() -> None:
    text = "</script><!--\u2028\ud800 &"
    rendered = render({"name": text.replace("\ud800", ""), "text": text})
    assert rendered.count("</script>") == 2
    found = re.search(r'id="data">(.*?)</script>', rendered, re.DOTALL)
    assert found is not None
    assert not set("<>&\u2028") & set(found[1])
    assert json.loads(found[1])["text"] == text
    rendered.encode()


def blocks(level: np.ndarray[Any, Any], size: int) -> np.ndarray[Any, Any]:
    """Means of blocks of cells; at the bottom and right edge of those that are there."""
    rows, columns = level.shape[1:]
    return np.stack(
        [
            np.stack([level[:, y : y + size, x : x + size].mean((1, 2)) for x in range(0, columns, size)], -1)
            for y in range(0, rows, size)
        ],
        1,
    )


def test_what_does_not_fit_is_averaged_and_projected(
    chromium: Browser, store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page keeps to its size, and its cosines are off from those of averaged cells by what it says."""
    monkeypatch.setattr("vertebra.extraction.show.data.ROOM", 60_000)
    path = show(store, tmp_path / "page.html")
    levels = data_of(path)["levels"]
    assert sum(len(base64.b64decode(level["codes"] + level["colours"])) for level in levels) <= 60_000
    assert [level["block"] for level in levels] == [3, 2, 1]
    assert levels[2]["directions"] < levels[2]["channels"]
    page, said = open_page(chromium, path)
    for level in levels:
        codes = np.frombuffer(base64.b64decode(level["codes"]), np.int8).reshape(-1, len(level["steps"]))
        vectors = np.zeros((len(codes), level["directions"]))
        for column, axis in enumerate(level["axes"]):
            vectors[:, axis] += codes[:, column] * level["steps"][column]
        maps = [blocks(store[level["name"]][id_].double().numpy(), level["block"]) for id_ in store.ids]
        assert [list(each.shape[1:]) for each in maps] == level["grids"]
        cells = np.concatenate([each.reshape(len(each), -1).T for each in maps])
        cells /= np.linalg.norm(cells, axis=1, keepdims=True)
        queries = np.linspace(0, len(cells) - 1, level["queries"]).astype(int)
        errors = np.abs(vectors[queries] @ vectors.T - cells[queries] @ cells.T)
        assert errors.max() == pytest.approx(level["largest_error"], abs=1e-5)
        assert errors.mean() == pytest.approx(level["mean_error"], abs=1e-5)
        page.get_by_role("radio", name=level["name"]).check()
        frame(page, 0).click(position={"x": 2, "y": 2})
        note = page.locator("#level-note").inner_text()
        assert ("is shown averaged over" in note) == (level["block"] > 1)
        rows, columns = level["grids"][1]
        first = level["grids"][0][0] * level["grids"][0][1]
        row, column = rows - 1, columns - 1
        shown = hovered(page, level, 1, row, column)
        assert shown == pytest.approx(
            float(cells[0] @ cells[first + row * columns + column]), abs=level["largest_error"] * 1.2
        )
    assert said == []


@pytest.mark.parametrize("pooled", [1, 2])
def test_cells_lie_where_their_stage_says(pooled: int) -> None:
    """Cells of 8 pixels, the first centred at pixel 0 down and 4 across, on an image of 40 x 56 pixels."""
    stage = Stage("s", 0, 3, (Fraction(8), Fraction(8)), (Fraction(0), Fraction(4)))
    left, top, width, height = box(stage, (6, 7), pooled, (40, 56))
    assert (left, top) == (0, -4 / 40)
    assert (width, height) == (8 * (7 if pooled == 1 else 8) / 56, 6 * 8 / 40)
    unknown = Stage("s", 0, 3, (Fraction(8), Fraction(8)))
    assert box(unknown, (5, 7), 1, (40, 56)) == box(None, (5, 7), 1, (40, 56)) == (0, 0, 1, 1)
    assert box(unknown, (5, 7), 2, (40, 56)) == (0, 0, 8 / 7, 6 / 5)


def test_norms_that_are_not_finite_or_all_equal() -> None:
    norms = measure_norms([torch.tensor([[2.0, 2.0], [2.0, torch.nan]]), torch.tensor([[2.0, torch.inf], [2.0, 2.1]])])
    assert (norms.median, norms.cells, norms.nonfinite, norms.outliers) == (2.0, 8, 2, 3)
    assert norms.listed == [(0, 1, 1, None), (1, 0, 1, None), (1, 1, 1, pytest.approx(2.1))]
    assert sum(norms.counts) == 6
    nothing = measure_norms([torch.full((1, 2), torch.nan)])
    assert (nothing.outliers, nothing.nonfinite, nothing.edges, nothing.counts) == (2, 2, (0, 0), [0])


def test_vectors_of_zeros_and_of_no_number() -> None:
    level = torch.randn(5, 3, 3)
    level[:, 0, 0], level[:, 1, 1] = 0, torch.nan
    packed = pack([level], 10_000)
    assert packed.codes[0].eq(0).all()
    assert packed.codes[4].eq(0).all()
    assert packed.largest_error < TOLERANCE
    assert pack([torch.zeros(5, 3, 3)], 10_000).largest_error == 0
