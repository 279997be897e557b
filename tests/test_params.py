"""params.yaml: what is wrong is named, with its value, the rule and what to do."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from phalar import params

DEFAULT = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def values() -> dict[str, Any]:
    return yaml.safe_load(DEFAULT.read_text())


@pytest.fixture
def refuse(tmp_path: Path):
    """Load values, expect a refusal, return its lines."""

    def load(values: Any) -> list[str]:
        path = tmp_path / "params.yaml"
        path.write_text(values if isinstance(values, str) else yaml.safe_dump(values))
        with pytest.raises(ValueError) as caught:
            params.load(path)
        return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]

    return load


def change(values: dict[str, Any], dotted: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    *sections, last = dotted.split(".")
    place = changed
    for section in sections:
        place = place[section]
    place[last] = value
    return changed


def test_the_default_is_right_and_its_paths_lie_beside_it() -> None:
    found = params.load(DEFAULT)
    assert found.paths.root == DEFAULT.parent / "data"
    assert found.paths.prepare("bands") == DEFAULT.parent / "data/prepare/bands"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.steps", 0, "train.steps = 0: Input should be greater than 0"),
        ("train.steps", "many", "train.steps = 'many': Input should be a valid integer"),
        ("train.steps", 10.5, "train.steps = 10.5: Input should be a valid integer"),
        ("train.steps", None, "train.steps = None: Input should be a valid integer"),
        ("train.variant", "fill", "train.variant = 'fill': Input should be 'full', 'gap'"),
        ("train.crop_s", [], "train.crop_s = []: List should have at least 1 item"),
        ("prepare.max_bad_fraction", 2.0, "prepare.max_bad_fraction = 2.0: Input should be less"),
        ("prepare.workers", "two", "prepare.workers = 'two': Input should be 'auto'"),
        (
            "prepare.split",
            {"salt": 1, "train": 0.8, "valid": 0.1, "test": 0.2},
            "prepare.split: fractions 0.8 + 0.1 + 0.2 = 1.1, must be 1",
        ),
        ("sources", [], "sources = []: List should have at least 1 item"),
        ("sources", ["choral"], "sources: 'choral' is unknown; choose from chorales, bands"),
        (
            "render.weights",
            {"chorales": 1.0},
            "render.weights: no weight for source 'bands'; add one",
        ),
    ],
)
def test_a_wrong_value_is_named(values, refuse, name: str, value: Any, message: str) -> None:
    lines = refuse(change(values, name, value))
    assert any(line.startswith(message) for line in lines), lines


def test_a_missing_parameter_is_named(values, refuse) -> None:
    del values["train"]["optimiser"]["muon"]["momentum"]
    assert refuse(values) == ["train.optimiser.muon.momentum is missing; add it"]


def test_an_unknown_parameter_is_named(values, refuse) -> None:
    lines = refuse(change(values, "train.stpes", 3))
    assert lines == ["train.stpes is not a parameter; remove it or mend its spelling"]


def test_every_fault_gets_its_line(values, refuse) -> None:
    del values["evaluate"]["clip_s"]
    lines = refuse(change(change(values, "train.steps", -1), "register.nmae", "x"))
    named = [line.split()[0] for line in lines]
    assert named == ["train.steps", "evaluate.clip_s", "register.nmae"]


@pytest.mark.parametrize("text", ["train: [1, 2", "a: b: c", "\tx: 1"])
def test_what_is_not_yaml_is_refused_in_one_line(refuse, text: str) -> None:
    (line,) = refuse(text)
    assert line.startswith("is not YAML: ")


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "3"])
def test_what_is_no_mapping_is_refused(refuse, text: str) -> None:
    (line,) = refuse(text)
    assert "Input should be a valid dictionary" in line


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.yaml: no such file; .* or use --params"):
        params.load(tmp_path / "none.yaml")


def test_a_folder_instead_of_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError), match=str(tmp_path)):
        params.load(tmp_path)


@settings(deadline=None)  # a busy machine is no defect
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
    st.sampled_from(["sources", "download", "prepare.split", "render.pairs", "train.loss"]),
)
def test_nothing_but_a_value_error_comes_of_nonsense(
    tmp_path_factory: pytest.TempPathFactory, value: Any, name: str
) -> None:
    values = yaml.safe_load(DEFAULT.read_text())
    if value == values.get(name):
        return
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump(change(values, name, value)))
    with pytest.raises(ValueError, match=rf"{path}: {name.split('.')[0]}"):
        params.load(path)


def test_a_digest_depends_on_values_and_not_on_layout(tmp_path: Path, values) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=True, default_flow_style=True))
    default, other = params.load(DEFAULT), params.load(path)
    assert params.digest(default.train) == params.digest(other.train)
    path.write_text(yaml.safe_dump(change(values, "train.seed", 99)))
    assert params.digest(params.load(path).train) != params.digest(default.train)
