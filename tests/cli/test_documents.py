"""README and docs show commands that exist, and the two commands that do all set-up are one line each."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from eddycast.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def blocks(page: Path) -> list[str]:
    """Shell blocks, with continued lines joined."""
    found = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [block.replace("\\\n", " ") for block in found]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_documents_exist_with_their_options(page):
    for line in "\n".join(blocks(page)).splitlines():
        if not line.startswith("eddycast "):
            continue
        name, *words = shlex.split(line, comments=True)[1:]
        assert name in COMMANDS, line
        options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line
        required = {p.opts[0] for p in COMMANDS[name].params if p.required and p.opts[0].startswith("--")}
        assert required <= set(words), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_documents_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize(("name", "part"), [("demo", "eddycast demo"), ("test", "pytest")])
def test_set_up_is_one_line_that_names_packages_only(name, part):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (command,) = re.findall(rf"<!-- command: {name} -->\n```bash\n(.*?)\n```", readme, flags=re.DOTALL)
    assert "\n" not in command
    assert part in command
    assert "-c constraints.txt" in command
    assert "://" not in command
    assert "index-url" not in command


def test_constraints_pin_every_dependency_once():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][^+\s]*", pin) for pin in pins)
    names = [re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower() for pin in pins]
    assert len(set(names)) == len(names)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = re.findall(
        r'"([A-Za-z0-9._-]+)>=[0-9.]+"', project.partition("hub = ")[0] + project.partition("test = ")[2]
    )
    missing = {re.sub(r"[-_.]+", "-", name).lower() for name in wanted} - set(names) - {"hatchling", "mkdocs"}
    assert not missing
    assert "torch==2.13.0" in pins


def test_recipes_in_the_documents_exist():
    from eddycast import api

    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    named = set(re.findall(r"(?<![\w/-])[a-z0-9-]+/[a-z0-9-]+-(?:small|smoke|paper)\b", text))
    assert "ks/universal-small" in named
    assert named <= {name for name, _ in api.recipes()}
