"""The benchmarks' runner: what is compared and refused, what a failing file does, and that RESULTS.md says what was measured."""

import ast
import importlib
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from real import ROOT

FOLDER = ROOT / "benchmarks"
SHARED = {"machine", "networks", "pairs", "peak_memory", "photo_files", "report", "run", "store_files", "worker"}
"""What benchmarks have in common."""
ALONE = {"extraction_growth", "families", "feature_store_growth"}
"""Scripts that print or write what is no comparison of two sides."""

GOOD = '''"""Two lines that hold."""
import torch
from pairs import Case, Missing

def cases():
    x = torch.randn(64, 64)
    yield Case("a product", "torch", lambda: x @ x, lambda: torch.mm(x, x), operations=2 * 64**3, rounds=3, asked=1e-9)
    print("printed by a case")
    small, large = 32 * 2**20, 128 * 2**20
    def made(size):
        return lambda: torch.ones(size, dtype=torch.int8)[:9]

    yield Case("memory", "numbers", made(small), made(large), rounds=0, asked_memory=3.0)
    yield Missing("an engine", "OpenVINO", "transformers")
'''
BAD = '''"""Lines that do not hold."""
import torch
from pairs import Case

def cases():
    x = torch.ones(3)
    yield Case("differs", "torch", lambda: x, lambda: 2 * x)
    yield Case("slow", "torch", lambda: x, lambda: x, rounds=2, limit=0.0)
    yield Case("holds", "torch", lambda: x, lambda: x, rounds=2)
    raise RuntimeError("no file at /home/somebody/weights.bin")
'''


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    """Modules of benchmarks/, which no other test is to find: `families` is the name of a package of tests too."""
    names = ("run", "report", "pairs", "machine", "worker", "peak_memory")
    sys.path.insert(0, str(FOLDER))
    found = {name: importlib.import_module(name) for name in names}
    yield SimpleNamespace(**found)
    sys.path.remove(str(FOLDER))
    for name in names:
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A folder with a good and a bad file, after `--write`."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "good.py").write_text(GOOD)
    (folder / "bad.py").write_text(BAD)
    command = [sys.executable, str(FOLDER / "run.py"), "--folder", str(folder), "--write"]
    return subprocess.run(command, capture_output=True, text=True, check=False), folder


def test_every_file_is_a_benchmark_or_known(modules: SimpleNamespace) -> None:
    found = modules.run.benchmarks()
    assert set(found) == {path.stem for path in FOLDER.glob("*.py")} - SHARED - ALONE
    for name, title in found.items():
        tree = ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))
        assert title.endswith((".", ":")), f"{name}.py has no docstring whose first line is its title"
        assert ast.unparse(tree.body[-1]) == "if __name__ == '__main__':\n    main(__file__)", (
            f"{name}.py does not run alone"
        )


def test_the_page_on_disk_is_what_was_measured(modules: SimpleNamespace) -> None:
    results = modules.report.load(FOLDER / "results.json")
    assert results, "run `make bench`"
    assert set(results) <= set(modules.run.benchmarks())
    assert (FOLDER / "RESULTS.md").read_text(encoding="utf-8") == modules.report.markdown(results), "run `make bench`"
    assert "/home/" not in (FOLDER / "results.json").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert modules.report.headlines(results) in readme, "run `make bench`"
    assert readme == modules.report.with_headlines(readme, results)


class TestCase:
    @pytest.mark.parametrize(
        ("theirs", "told"),
        [
            ([torch.tensor([1.0, 2.0, 3.1])], r"^a: outputs differ from those of b by 3\.2e-02$"),
            ([torch.tensor([1.0, 2.0, math.nan])], r"^a: outputs differ from those of b by nan$"),
            ([torch.tensor([1.0, 2.0])], r"^a: \(3,\) is not \(2,\)$"),
            ([torch.tensor([1.0, 2.0, 3.0])] * 2, r"^a: 1 outputs, b has 2$"),
        ],
    )
    def test_other_outputs_are_refused(self, modules: SimpleNamespace, theirs: list[torch.Tensor], told: str) -> None:
        ours = [torch.tensor([1.0, 2.0, 3.0])]
        with pytest.raises(AssertionError, match=told):
            modules.pairs.Case("a", "b", lambda: ours, lambda: theirs).difference()

    def test_a_difference_in_any_output_counts(self, modules: SimpleNamespace) -> None:
        one, nan = torch.ones(2), torch.full((2,), math.nan)
        for place in range(3):
            theirs = [one, one, one]
            theirs[place] = nan
            with pytest.raises(AssertionError, match="differ"):
                modules.pairs.Case("a", "b", lambda: [one] * 3, lambda theirs=theirs: theirs).difference()

    def test_no_outputs_are_refused(self, modules: SimpleNamespace) -> None:
        with pytest.raises(AssertionError, match=r"^a: no outputs to compare$"):
            modules.pairs.Case("a", "b", lambda: None, lambda: None).difference()

    def test_ratios_are_the_peers_time_over_ours(self, modules: SimpleNamespace) -> None:
        case = modules.pairs.Case("a", "b", lambda: 2.0, lambda: 6.0, seconds=lambda told: told, rounds=5)
        timing = modules.pairs.measure(case)
        assert (timing.ours, timing.theirs, timing.ratio, timing.spread) == (2.0, 6.0, 3.0, (3.0, 3.0))

    def test_short_cases_are_repeated_for_a_while(
        self, modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        case = modules.pairs.Case("a", "b", lambda: 1.0, lambda: 1.0, rounds=2)
        assert len(modules.pairs.measure(case).ratios) == modules.pairs.MOST
        monkeypatch.setattr(modules.pairs, "LEAST", 0.0)
        assert len(modules.pairs.measure(case).ratios) == 2


class TestRunner:
    def test_a_bad_file_fails_the_run_and_stops_nothing(
        self, ran: tuple[subprocess.CompletedProcess[str], Path]
    ) -> None:
        done, _ = ran
        assert done.returncode == 1
        assert done.stderr.endswith("failed: bad\n")
        assert "Traceback" in done.stderr
        assert "[1/2] bad: Lines that do not hold." in done.stdout
        assert "[2/2] good: Two lines that hold." in done.stdout
        assert "printed by a case" not in done.stdout

    def test_what_failed_is_told_without_paths(
        self, modules: SimpleNamespace, ran: tuple[subprocess.CompletedProcess[str], Path]
    ) -> None:
        done, folder = ran
        part = modules.report.load(folder / "results.json")["bad"]
        assert part.failed
        assert part.failure == "RuntimeError: no file at weights.bin"
        differs, slow, holds = part.rows
        assert differs.failure == "differs: outputs differ from those of torch by 5.0e-01"
        assert differs.ratio is None
        assert slow.failure.endswith("the limit is 0.0 s")
        assert not holds.failure
        assert "FAILED: RuntimeError: no file at weights.bin" in done.stdout
        assert "/home" not in (folder / "RESULTS.md").read_text(encoding="utf-8")

    def test_a_good_file_is_measured(
        self, modules: SimpleNamespace, ran: tuple[subprocess.CompletedProcess[str], Path]
    ) -> None:
        part = modules.report.load(ran[1] / "results.json")["good"]
        product, memory, engine = part.rows
        assert not part.failed
        assert product.ours > 0
        assert product.low <= product.ratio <= product.high
        assert 0 < product.of_peak < 1.5
        assert engine.not_run == "transformers is not installed (pip install 'vertebra[bench]')"
        assert memory.ratio is None
        if modules.peak_memory.can_measure():
            assert memory.our_memory == pytest.approx(32, abs=4)
            assert memory.their_memory == pytest.approx(128, abs=4)

    def test_one_file_leaves_the_others(
        self, modules: SimpleNamespace, ran: tuple[subprocess.CompletedProcess[str], Path]
    ) -> None:
        """The page is written from the file that keeps the results of all."""
        _, folder = ran
        results = modules.report.load(folder / "results.json")
        page = modules.report.markdown(results)
        assert (folder / "RESULTS.md").read_text(encoding="utf-8") == page
        assert page.index("## bad") < page.index("## good")

    def test_a_name_that_is_none_is_refused(self) -> None:
        command = [sys.executable, str(FOLDER / "run.py"), "--only", "backbone"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "no benchmark is called backbone; there are backbones, " in done.stderr

    def test_a_package_that_is_missing_names_its_extra(self, modules: SimpleNamespace) -> None:
        missing = ModuleNotFoundError(name="transformers.models")
        told = "transformers is not installed (pip install 'vertebra[bench]')"
        assert modules.worker.not_installed(missing) == told
        assert modules.worker.not_installed(ModuleNotFoundError(name="tranformers")) == ""


class TestReport:
    def test_a_table(self, modules: SimpleNamespace) -> None:
        facts = {"processor": "P", "cores": "2", "threads": "2", "GPU": "none", "torch": "2.15"}
        time = {"ours": 0.0125, "theirs": 0.5, "ratio": 40.0, "low": 39.5, "high": 41.0, "rounds": 5}
        rows = [
            modules.report.Row("fast", "them", **time, asked=2.0, operations=1e9, peak=2e11, difference=2e-6),
            modules.report.Row("lean", "them", our_memory=10.0, their_memory=25.0, asked_memory=3.0, remark="A word."),
            modules.report.Row("absent", "nobody", not_run="x is not installed"),
        ]
        page = modules.report.markdown({"paths": modules.report.Part("A title.", "2026-01-02", 61.4, facts, rows)})
        for expected in (
            "Measured on P, 2 cores, 2 threads; torch 2.15.",
            "Not measured: anything on a GPU; no GPU was there.",
            "Of 2 ratios that were asked for, 1 are reached.",
            "- paths: lean, memory, against them: 2.50, asked 3",
            "## paths\n\nA title.\n",
            "| fast | them | 12.5 | 500 | 40.00 (39.50 to 41.00) | 2, reached | 40 % |  |  |  |",
            "| lean | them |  |  |  |  |  | 10, 25 | 2.50 | 3, missed |",
            "- lean, against them: A word.",
            "- absent, against nobody: not run, x is not installed.",
            "--only paths`, 2026-01-02, 61 s: 5 rounds, outputs at most 2e-06 apart, matrix peak 200 GFLOP/s.",
        ):
            assert expected in page

    def test_a_part_from_elsewhere_says_so(self, modules: SimpleNamespace) -> None:
        facts = {"processor": "P", "cores": "2", "threads": "2", "GPU": "none", "torch": "2.15"}
        old = modules.report.Part("Old.", "2026-01-01", 1.0, {**facts, "torch": "2.14"})
        new = modules.report.Part("New.", "2026-01-02", 1.0, facts, every=True)
        page = modules.report.markdown({"old": old, "new": new})
        assert "torch 2.15." in page
        assert "`EVERY=1 python benchmarks/run.py --only new`" in page
        assert "`python benchmarks/run.py --only old`" in page
        assert "2026-01-01, 1 s: one run, with torch 2.14." in page

    def test_results_are_read_as_they_were_written(self, modules: SimpleNamespace, tmp_path: Path) -> None:
        rows = [modules.report.Row("a", "b", ours=1.0, theirs=2.0, ratio=2.0, low=1.0, high=3.0, rounds=3)]
        results = {"one": modules.report.Part("T.", "2026-01-02", 1.5, {"processor": "P"}, rows, "why")}
        modules.report.save(results, tmp_path / "results.json")
        assert modules.report.load(tmp_path / "results.json") == results


def test_the_peak_is_a_number(modules: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules.machine, "SHAPES", ((256, 256, 256),))
    peak = modules.machine.matrix_peak()
    assert math.isfinite(peak)
    assert 1e8 < peak < 1e15
    assert all(modules.machine.facts().values())
