"""`vertebra find`: the table, JSON, what it says when nothing fits, and making the table again."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from vertebra import find
from vertebra.cli import UNREAD, main
from vertebra.inspection import make_table
from vertebra.inspection.table import SHIPPED, cached_path, installed_timm, read_table, write_table

TOTAL = len(read_table(SHIPPED).rows)


def test_the_readme_query(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", "--strides", "4,8,16,32", "--max-params", "30e6", "--any-size", "--json"]) == 0
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    expected = find(strides=(4, 8, 16, 32), max_params=30e6, any_size=True)
    assert [row["name"] for row in rows] == [found.name for found in expected]
    assert len(rows) > 100
    assert all(row["selected"]["strides"] == [4, 8, 16, 32] for row in rows)
    assert all(row["parameters"] <= 30e6 and row["sizes"] in ("any", "multiple") for row in rows)
    assert printed.err == ""


def test_the_table_is_aligned_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", "resnet50*", "--strides", "8,32", "--max-params", "24M", "--limit", "3"]) == 0
    head, *rows, empty, count = capsys.readouterr().out.splitlines()
    found = find("resnet50*", strides=(8, 32), max_params=24e6)
    assert empty == ""
    assert count == f"{len(found)} of {TOTAL} backbones; the first 3 are shown, --limit shows more"
    assert [row.split()[0] for row in rows] == [each.name for each in found[:3]]
    for title in ("maps (stride:channels)", "attention", "licences"):
        assert {row[head.index(title) - 1] for row in rows} == {" "}
    assert "8:512 32:2048" in rows[0]


@pytest.mark.parametrize("arguments", [["--json"], ["--limit", "1"]], ids=["more than a pipe holds", "less"])
def test_whoever_stops_reading_sees_no_error(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "vertebra.cli", "find", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == UNREAD


def test_everything_may_be_asked_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "vit dinov3 --attention global --norm layer --prefix-tokens 5 --patch-size 16 --licence dinov3-license"
    assert main(["find", *arguments.split(), "--min-params", "1M", "--max-flops", "1T", "--pretrained"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].startswith("vit_small_patch16_dinov3 ")
    assert "dinov3-license" in out
    assert main(["find", "--channels", "96,192,384,768", "--size", "320x512", "--dilation", "8", "--sort", "name"]) == 0
    assert "convnext_tiny" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reznet50"], "no backbone is called 'reznet50'. Did you mean '"),
        (["vit_base*", "--max-params", "1M"], "fulfils all of this. Excluded are "),
        (["--strides", "3"], f"Excluded are {TOTAL} by --strides; there would be {TOTAL} without --strides."),
    ],
)
def test_nothing_found_says_why(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert main(["find", *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_the_hint_names_the_condition_to_give_up(capsys: pytest.CaptureFixture[str]) -> None:
    main(["find", "resnet50", "--prefix-tokens", "0", "--max-params", "1k"])
    count = len(find("resnet50", prefix_tokens=0))
    assert f"there would be {count} without --max-params" in capsys.readouterr().err
    main(["find", "resnet50", "--prefix-tokens", "5", "--max-params", "1k"])
    assert "no single condition is to blame." in capsys.readouterr().err


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", "--licence", "mitt"]) == 1
    assert "error: licence='mitt' is not known. Did you mean 'mit'?" in capsys.readouterr().err
    assert main(["find", "--sort", "size"]) == 1
    for arguments, message in (
        (["--max-params", "many"], "'many' is not a number; write for example 30e6, 30M or 4.5G"),
        (["--patch-size", "x"], "'x' is not a whole number"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["find", *arguments])
        assert message in capsys.readouterr().err


def test_another_timm_is_said_once_and_its_table_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    timm = installed_timm()
    monkeypatch.setattr("vertebra.inspection.table.SHIPPED", tmp_path / "old.json.gz")
    content = read_table(SHIPPED)
    write_table(tmp_path / "old.json.gz", "0.1", content.rows[:3], {})
    assert main(["find"]) == 0
    printed = capsys.readouterr()
    assert printed.err.count("note: this table is for timm 0.1, and timm") == 1
    assert "3 of 3 backbones" in printed.out
    monkeypatch.setattr(make_table, "names_of_all", lambda: ["test_vit"])
    assert main(["find", "--rebuild"]) == 0
    assert capsys.readouterr().out == f"1 backbones in {cached_path(str(timm))}\n"
    assert main(["find"]) == 0
    printed = capsys.readouterr()
    assert "1 of 1 backbones" in printed.out
    assert printed.err == ""


def test_the_readme_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```console\n\$ vertebra (find [^\n]*)\n(.*?)^```", readme, re.M | re.S)
    tables = [(arguments, shown) for arguments, shown in blocks if "--json" not in arguments]
    assert len(tables) == 1
    for arguments, shown in tables:
        assert main(shlex.split(arguments)) == 0
        assert capsys.readouterr().out.strip() == shown.strip()
