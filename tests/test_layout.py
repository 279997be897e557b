"""What the README, dvc.yaml and params.yaml say of the tree is so, and stays so."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from phalar import sources
from phalar.params import Params

ROOT = Path(__file__).parents[1]
STAGES = ("download", "prepare", "render", "train", "evaluate", "register")

SOURCES = yaml.safe_load((ROOT / "params.yaml").read_text())["sources"]
EVERY_SOURCE = tuple(sources.SOURCES)
NEEDS = ROOT / "phalar/sources/needs"

UNTRACKED_PARAMS = {
    # They change how fast and how often, never what comes out.
    "download.fetch.workers",
    "download.fetch.tries",
    "download.fetch.timeout_s",
    "download.fetch.have",
    "prepare.workers",
    "render.workers",
    "render.runner",
    "train.log_every_steps",
    "train.checkpoint_every_s",
    "train.recompute_clips",
    "train.threads",
    "train.workers",
    # The gate is no stage: it compares what is registered.
    "register.promote.protocol",
    "register.promote.gain",
    "register.promote.loss",
}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def tracked() -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}


def graph() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())


def stage(name: str) -> dict[str, Any]:
    found = graph()["stages"][name]
    return found.get("do", found)


# ---- imports -----------------------------------------------------------------------------------


def source_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


def imported(path: Path, *, within_functions: bool) -> Iterator[str]:
    """Names of modules that a file imports, except those it only needs for its types."""
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.FunctionDef) and not within_functions:
            continue
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                module = f"{node.module}.{name.name}"
                yield module if source_of(module) else node.module or ""
        nodes.extend(ast.iter_child_nodes(node))


def reachable(start: Path, package: str = "phalar") -> set[Path]:
    """Every file of the package that running `start` can import, its own package's included."""
    seen: set[tuple[Path, bool]] = set()

    def follow(path: Path, *, within_functions: bool) -> None:
        if (path, within_functions) in seen:
            return
        seen.add((path, within_functions))
        for name in imported(path, within_functions=within_functions):
            words = name.split(".")
            if words[0] != package:
                continue
            # A package that is only passed through runs its top level, but no function of it.
            for end in range(1, len(words)):
                if parent := source_of(".".join(words[:end])):
                    follow(parent, within_functions=False)
            if found := source_of(name):
                follow(found, within_functions=True)

    follow(start, within_functions=True)
    return {path for path, _ in seen} - {start}


def test_reachable_follows_functions_but_not_packages_passed_through() -> None:
    reached = {path.relative_to(ROOT).as_posix() for path in reachable(ROOT / "flows/render.py")}
    assert {"phalar/render/__init__.py", "phalar/render/shards.py", "phalar/tracks.py"} <= reached
    assert "phalar/__init__.py" in reached
    assert "phalar/infer.py" not in reached


def code_of(name: str, source: str) -> set[Path]:
    """Every file that a stage can run, the parameters' apart."""
    # Some are named in strings: sources by params.yaml, the training process by its launcher.
    by_name = python_files(f"phalar/{name}")
    if name in ("download", "prepare"):
        by_name.append(ROOT / f"phalar/sources/{source}.py")
    found = set(by_name).union(*map(reachable, [ROOT / f"flows/{name}.py", *by_name]))
    return found - {*python_files("phalar/params"), ROOT / "phalar/__init__.py"}


def deps_of(name: str, source: str) -> list[Path]:
    """Paths that a stage depends on; links of a source's needs as what they lead to."""
    deps = [ROOT / dep.replace("${item}", source) for dep in stage(name)["deps"]]
    needs = [dep for dep in deps if dep.parent == NEEDS]
    links = [link.resolve() for folder in needs for link in sorted(folder.iterdir())]
    return [dep for dep in deps if dep not in needs] + links


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("source", EVERY_SOURCE)
def test_deps_cover_all_code_that_a_stage_runs(name: str, source: str) -> None:
    deps = deps_of(name, source)
    uncovered = {
        path.relative_to(ROOT).as_posix()
        for path in code_of(name, source)
        if not any(path.is_relative_to(dep) for dep in deps)
    }
    assert uncovered == set()


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("source", EVERY_SOURCE)
def test_deps_name_no_code_that_a_stage_does_not_run(name: str, source: str) -> None:
    code = code_of(name, source)
    deps = [dep for dep in deps_of(name, source) if dep.is_relative_to(ROOT / "phalar")]
    assert {dep for dep in deps if not any(path.is_relative_to(dep) for path in code)} == set()
    listed = stage(name)["deps"]
    assert len(listed) == len(set(listed))


def test_the_needs_of_a_source_are_links_under_the_names_of_modules() -> None:
    assert {folder.name for folder in NEEDS.iterdir()} == set(EVERY_SOURCE)
    for link in NEEDS.glob("*/*"):
        assert link.is_symlink()
        assert link.resolve().name == f"{link.name}.py"


def test_the_library_does_not_know_who_runs_it() -> None:
    for path in python_files("phalar"):
        roots = {name.split(".")[0] for name in imported(path, within_functions=True)}
        assert not roots & {"prefect", "dvc", "flows"}, path


def test_no_stage_imports_a_later_one() -> None:
    # Validation is a small evaluation, and there shall be one way to count.
    allowed = {("train", "phalar.evaluate.retrieval")}
    wrong = set()
    for place, name in enumerate(STAGES):
        for path in python_files(f"phalar/{name}") or [ROOT / f"phalar/{name}.py"]:
            for module in imported(path, within_functions=True):
                later = [f"phalar.{stage}" for stage in STAGES[place + 1 :]]
                if f"{module}.".startswith(tuple(f"{stage}." for stage in later)):
                    wrong.add((name, module))
    assert wrong <= allowed


# ---- words and parameters ----------------------------------------------------------------------


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_has_one_word_everywhere(name: str) -> None:
    assert (ROOT / f"flows/{name}.py").is_file()
    assert (ROOT / f"phalar/{name}.py").is_file() or (ROOT / f"phalar/{name}").is_dir()
    assert name in yaml.safe_load((ROOT / "params.yaml").read_text())
    assert stage(name)["cmd"].split()[:3] == ["python", "-m", f"flows.{name}"]
    kinds = ("outs", "metrics", "plots")
    outs = [out for kind in kinds for out in stage(name).get(kind, [])]
    for out in outs:
        path = next(iter(out)) if isinstance(out, dict) else out
        assert path.split("/")[:2] == ["data", name]


def test_dvc_has_these_stages_and_no_others() -> None:
    assert tuple(graph()["stages"]) == STAGES


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_says_what_it_does_and_for_how_long(name: str) -> None:
    found = stage(name)
    assert found["desc"]
    assert found["meta"]["usual_s"] > 0


def leaves(values: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(values, dict):
        for key, value in values.items():
            yield from leaves(value, f"{prefix}{key}.")
    else:
        yield prefix[:-1]


def test_every_parameter_is_tracked_by_a_stage_or_changes_nothing() -> None:
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    tracked_by = {
        param.replace("${item}", source)
        for name in STAGES
        for param in stage(name)["params"]
        for source in SOURCES
    }

    def is_tracked(leaf: str) -> bool:
        return any(f"{leaf}.".startswith(f"{param}.") for param in tracked_by)

    untracked = {leaf for leaf in leaves(values) if not is_tracked(leaf)}
    assert untracked == UNTRACKED_PARAMS


def fields(model: type[BaseModel]) -> dict[str, Any]:
    """Nested names of a model's fields as params.yaml spells them, without unused sources'."""
    found = {}
    for name, field in model.model_fields.items():
        if name in sources.SOURCES and name not in SOURCES:
            continue
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        found[field.alias or name] = fields(inner[0]) if inner else None
    return found


def assert_same_names(model: dict[str, Any], values: dict[str, Any], path: str) -> None:
    assert model.keys() == values.keys(), path
    for key, inner in model.items():
        if inner is not None and values[key] is not None:
            assert_same_names(inner, values[key], f"{path}{key}.")


def test_models_and_file_have_the_same_parameters() -> None:
    assert_same_names(fields(Params), yaml.safe_load((ROOT / "params.yaml").read_text()), "")


def test_no_parameter_has_a_second_default() -> None:
    def check(model: type[BaseModel]) -> None:
        for name, field in model.model_fields.items():
            # The sections of sources that are not used may be left out, and are nothing then.
            is_section = name in sources.SOURCES and field.default is None
            assert field.is_required() or is_section, f"{model.__name__}.{name}"
            for kind in [field.annotation, *getattr(field.annotation, "__args__", ())]:
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    check(kind)

    check(Params)


# ---- habits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", python_files("phalar", "flows"), ids=lambda p: p.name)
def test_files_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    first = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    assert re.fullmatch(r"\S.*[.?]", first), f"{path}: {first!r}"


def test_only_the_command_prints() -> None:
    for path in python_files("phalar"):
        if path.parent.name != "cli":
            calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
            assert "print" not in {ast.unparse(call.func) for call in calls}, path


def test_no_vague_names() -> None:
    vague = {"utils", "util", "helpers", "common", "base", "misc", "wrapper"}
    assert not vague & {path.stem for path in python_files("phalar", "flows", "tests")}


# ---- the README --------------------------------------------------------------------------------


def readme() -> str:
    return (ROOT / "README.md").read_text()


def tree_of_readme() -> dict[str, str]:
    """Paths of the README's tree and what it says of each."""
    block = next(b for b in re.findall(r"```\w*\n(.*?)```", readme(), re.S) if "\nphalar/" in b)
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in block.splitlines():
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        names, _, what = line.strip().partition("  ")
        folders = folders[:depth]
        for name in names.split():
            found["".join(folders) + name] = what.strip()
        if names.endswith("/"):
            folders.append(names)
    return found


def test_the_tree_of_the_readme_is_the_tree() -> None:
    told = set(tree_of_readme())
    assert {path for path in told if not (ROOT / path).exists()} == set()
    opened = {path for path in told if any(other.startswith(path) for other in told - {path})}
    closed = {path for path in told if path.endswith("/")} - opened
    # A folder's line speaks for its __init__.py, and for all its files where it is not opened.
    missing = {
        name
        for name in tracked()
        if not name.startswith((".", *closed)) and name.removesuffix("__init__.py") not in told
    }
    assert missing == set()


def test_the_tree_of_the_readme_says_what_the_files_say() -> None:
    for path, what in tree_of_readme().items():
        if path.endswith(".py") and not path.endswith("__init__.py"):
            said = (ast.get_docstring(ast.parse((ROOT / path).read_text())) or "").split("\n")[0]
            assert what == said.removesuffix("."), path
