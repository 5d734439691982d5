"""The shape of the package: who may import whom, and what no file may hold."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fusionperc"
TOOLS = ROOT / "tools"

CORE = {"types", "geometry", "config", "files", "measurements"}
#: Part of the package -> the other parts it may import. The arrows run one way.
ARROWS: dict[str, set[str]] = {
    "geometry": set(),
    "tensor_record": set(),
    "types": {"geometry", "tensor_record"},
    "config": {"geometry", "types"},
    "measurements": {"tensor_record", "types"},
    "files": set(),
    "environment": set(),
    "console": set(),
    "ops": CORE,
    "models": CORE | {"ops"},
    "objectives": CORE | {"ops", "models"},
    "data": CORE,
    "simulation": CORE,
    "visualization": CORE,
    "training": CORE | {"ops", "models", "objectives", "data", "environment"},
    "benchmarks": CORE | {"ops", "models", "objectives", "data", "environment"},
    # Evaluations take minutes and print tables: they share the tools' console.
    "evaluation": CORE | {"ops", "models", "objectives", "data", "visualization", "environment", "console"},
}
#: Outside library -> the places of the package that may import it.
HOMES = {
    "nuscenes": ("data/nuscenes.py", "evaluation/detection.py"),
    "open3d": ("visualization/open3d_view.py", "simulation/"),
    "sumo": ("simulation/",),
    "sumolib": ("simulation/",),
    "lightning": ("training/",),
    "small_gicp": ("data/scan_matching.py",),
}
TOP_LEVEL = {"pyproject.toml", "README.md", "LICENSE", "Makefile", "fusionperc", "configs", "tools", "tests", "docker"}
MOST_LINES = 450

MODULES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted(TOOLS.glob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Full dotted names of all imports, those inside functions and `if TYPE_CHECKING` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides which part is meant"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def parts_imported(source: str) -> set[str]:
    """The parts of the package that a source imports: 'models' of `from fusionperc.models.camera import ...`."""
    dotted = (name.split(".") for name in imports_of(ast.parse(source)))
    return {words[1] for words in dotted if words[0] == "fusionperc" and len(words) > 1}


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("no git checkout: which files belong to the project is not known")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_every_import_form_is_seen() -> None:
    source = (
        "import fusionperc.models.camera\nfrom fusionperc import ops\n"
        "def f():\n    from fusionperc.data.loading import make_loader\n"
    )
    assert parts_imported(source) == {"models", "ops", "data"}


def test_every_part_of_the_package_has_its_arrows() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - {"__init__"}
    assert parts == set(ARROWS)


def test_arrows_have_no_cycle() -> None:
    done: set[str] = set()
    while remaining := ARROWS.keys() - done:
        free = {part for part in remaining if ARROWS[part] <= done}
        assert free, f"these import each other: {sorted(remaining)}"
        done |= free


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_follow_the_arrows(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    wrong = parts_imported(path.read_text()) - ARROWS.get(part, set()) - {part}
    assert not wrong, f"{name_of(path)} imports fusionperc.{', fusionperc.'.join(sorted(wrong))}: {part} must not"


@pytest.mark.parametrize("library", sorted(HOMES))
def test_outside_libraries_stay_in_their_place(library: str) -> None:
    importers = [name_of(path) for path in MODULES if library in {n.split(".")[0] for n in imports_of(_tree(path))}]
    assert [name for name in importers if not name.startswith(HOMES[library])] == []


def test_tools_do_not_import_each_other() -> None:
    names = {path.stem for path in SCRIPTS} | {"tools"}
    for path in SCRIPTS:
        assert not names & {name.split(".")[0] for name in imports_of(_tree(path))}, path.name


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_device_is_chosen_behind_the_caller(path: Path) -> None:
    calls = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)]
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "cuda"]
    assert not lines, f"{name_of(path)}: .cuda() on lines {lines}; devices are arguments: .to(device)"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_the_library_does_not_print(path: Path) -> None:
    calls = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)]
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not lines, f"{name_of(path)}: print on lines {lines}; the library logs"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(_tree(path))


def test_no_drawer_for_odds_and_ends() -> None:
    drawers = {"util", "utils", "helpers", "misc", "common"}
    assert [name_of(path) for path in MODULES if drawers & {path.stem, path.parent.name}] == []


def test_files_stay_readable_in_one_go() -> None:
    paths = [*MODULES, *SCRIPTS, *(ROOT / "tests").rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in paths}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_top_level_holds_only_what_it_should() -> None:
    entries = {path.relative_to(ROOT).parts[0] for path in tracked_files()}
    assert {entry for entry in entries if not entry.startswith(".")} <= TOP_LEVEL


#: What names one machine or one network; the dots and groups keep these lines from matching themselves.
PLACES = re.compile(
    r"(?:pypi|pythonhosted)\.(?:org|io)|--(?:extra-)?index[-]url|(?<![\w.$}>/-])/(?:work|root|tmp)/\w|\blocalhost[:]\d"
)


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("/".join(["", "work", "main"]), True),
        ("open('" + "/".join(["", "tmp", "a.json"]) + "')", True),
        ("https://" + ".".join(["pypi", "org"]), True),
        ("$HOME/work/main", False),
        ("data/work/x", False),
        ("/data/nuscenes", False),
    ],
)
def test_places_are_recognised(text: str, is_found: bool) -> None:
    assert bool(PLACES.search(text)) == is_found


def test_no_file_names_a_machine_or_a_package_server() -> None:
    found = []
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in PLACES.finditer(text)]
    assert found == []


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())
