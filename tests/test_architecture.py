"""Data flows one way: no package imports one that stands after it, and the README's tree is the tree."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mogu

SOURCE = Path(mogu.__file__).parent
README = SOURCE.parents[1] / "README.md"

MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "settings": {"errors"},
    "share": set(),
    "chat": {"errors"},
    "turns": {"chat", "errors"},
    "judges": {"errors"},
    "models": {"errors"},
    "corpus": {"data"},
    "data": {"chat", "corpus", "errors"},
    "adapter": {"errors", "files", "models", "turns"},
    "training": {
        "adapter",
        "chat",
        "corpus",
        "data",
        "errors",
        "files",
        "judges",
        "models",
        "share",
        "turns",
    },
    "generation": {"adapter", "chat", "errors", "models"},
    "defenses": {
        "adapter",
        "chat",
        "corpus",
        "data",
        "errors",
        "files",
        "generation",
        "judges",
        "models",
        "training",
    },
    "evaluation": {
        "adapter",
        "chat",
        "corpus",
        "data",
        "defenses",
        "errors",
        "files",
        "generation",
        "judges",
        "share",
    },
    "report": {"errors", "evaluation", "files", "generation", "share"},
    "serving": {"adapter", "chat", "errors", "generation", "models", "report"},
}


def imported_parts(file: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        parts |= {name.split(".")[1] for name in names if name.startswith("mogu.")}
    return parts


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_comes_before_it(part):
    place = SOURCE / part
    files = list(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
    assert files
    for file in files:
        assert imported_parts(file) - {part} <= MAY_IMPORT[part], file


def test_the_engine_knows_nothing_of_who_serves_with_it():
    texts = [file.read_text(encoding="utf-8") for file in (SOURCE / "serving" / "engine").glob("*.py")]
    assert texts and not any("mogu.serving.http" in text or "mogu.serving.page" in text for text in texts)


def test_every_part_stands_in_the_rule():
    parts = {
        path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert parts - {"__init__", "cli"} == set(MAY_IMPORT)


def test_the_tree_in_the_readme_is_the_tree():
    text = README.read_text(encoding="utf-8")
    block = text.split("```\nsrc/mogu/\n")[1].split("```")[0]
    named = set(re.findall(r"^  ([a-z_]+(?:\.py|/))", block, re.MULTILINE))
    there = {
        path.name + ("/" if path.is_dir() else "")
        for path in SOURCE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert named == there - {"__init__.py"}


def test_reports_are_made_without_torch():
    code = "import sys, mogu.report.routing, mogu.report.spread; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
