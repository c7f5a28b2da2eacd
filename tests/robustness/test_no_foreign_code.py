"""Nothing in the package runs what a file says: no pickle, no eval, no shell, no loader of objects."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import eddycast

SOURCES = sorted(Path(eddycast.__file__).parent.rglob("*.py"))
MODULES = {
    "pickle",
    "cPickle",
    "dill",
    "joblib",
    "cloudpickle",
    "marshal",
    "shelve",
    "subprocess",
    "pty",
    "commands",
    "code",
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "os.system", "os.popen", "os.execv", "os.execve", "os.execvp", "os.spawnl", "os.spawnv", "os.startfile",
    "torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "yaml.load", "yaml.load_all", "yaml.full_load",
    "yaml.unsafe_load", "numpy.fromfile", "pandas.read_pickle", "importlib.reload",
}  # fmt: skip


def findings(text: str) -> list[str]:
    """What a source does that it must not, as `line: what`."""
    tree = ast.parse(text)
    alias = {
        name.asname or name.name: name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
    }
    alias |= {
        name.asname or name.name: f"{node.module}.{name.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [
                f"{node.lineno}: import {name.name}" for name in node.names if name.name.partition(".")[0] in MODULES
            ]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            found.append(f"{node.lineno}: from {node.module}")
        elif isinstance(node, ast.Call):
            found += [f"{node.lineno}: {problem}" for problem in _problems(node, alias)]
    return found


def _problems(node: ast.Call, alias: dict[str, str]) -> list[str]:
    name = _dotted(node.func)
    first, dot, rest = name.partition(".")
    name = alias.get(first, first) + dot + rest
    given = {word.arg: word.value for word in node.keywords}
    found = [name] if name in CALLS or name in BUILTINS else []
    shell = given.get("shell")
    if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
        found.append("shell=")
    pickled = given.get("allow_pickle")
    denied = isinstance(pickled, ast.Constant) and pickled.value is False
    if name == "numpy.load" and not denied:
        found.append("numpy.load without allow_pickle=False")
    elif pickled is not None and not denied:
        found.append("allow_pickle=")
    if name.rpartition(".")[2] in ("UnsafeLoader", "FullLoader"):
        found.append(name)
    return found


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(Path(eddycast.__file__).parent)))
def test_source_runs_nothing_from_outside(path):
    assert findings(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from subprocess import run",
        "eval('1')",
        "import os\nos.system('ls')",
        "from os import system as s\ns('ls')",
        "import numpy as np\nnp.load('a')",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "import torch\ntorch.load('a')",
        "import yaml\nyaml.load('a', Loader=yaml.SafeLoader)",
        "f('ls', shell=True)",
    ],
)
def test_the_search_finds_what_it_is_for(text):
    assert findings(text)


def test_the_search_allows_what_is_needed():
    assert (
        findings("import re\nimport numpy as np\nre.compile('a')\nnp.load('a', allow_pickle=False)\nmodel.eval()") == []
    )
