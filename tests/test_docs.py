"""The documents: links lead somewhere, and what docs/add-a-target.md names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", ROOT / "CHANGES.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("cli", "codegen", "mossnet_tg", "targets", "tests", "weights")
ADDING = (ROOT / "docs" / "add-a-target.md").read_text()


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_lead_to_files(path):
    for link in re.findall(r"\]\(([^)#]+)", path.read_text()):
        assert link.startswith("https://") or (path.parent / link).exists(), link


def sources() -> list[Path]:
    """Without links to folders: mossnet_tg has one to each of the others."""
    kinds = ("*.py", "*.c", "*.h")
    return [p for folder in FOLDERS for kind in kinds for p in (ROOT / folder).rglob(kind)] + [ROOT / "CMakeLists.txt"]


def test_what_adding_a_target_names_is_there():
    files = sources()
    names, words = {p.name for p in files}, set(re.findall(r"\w+", " ".join(p.read_text() for p in files)))
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", ADDING, flags=re.DOTALL | re.MULTILINE))
    assert len(spans) > 50
    for token in (token for span in spans for token in span.split()):
        if "/" in token:
            assert (ROOT / token).exists(), token
        elif re.fullmatch(r"\w+\.(py|c|h|txt)", token):
            assert token in names, token
        else:
            missing = [word for word in re.findall(r"[A-Za-z_]\w{2,}", token) if word not in words]
            assert not missing, (token, missing)


def test_commands_name_tests_that_are_there():
    found = re.findall(r"tests/[\w/]+\.py", ADDING)
    assert found
    for name in found:
        assert (ROOT / name).exists(), name
