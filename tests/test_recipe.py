"""Protects that a recipe is the command line in a file: the same object, errors that name the file, and a schema."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

import jsonschema
import pytest

import radixrt as rt
from radixrt.engines.bundle.pins import PinOptions
from radixrt.errors import InputError
from radixrt.export.spec import Precision
from radixrt.fields import hints_of
from radixrt.fleet.options import SWEPT, SweepOptions
from radixrt.options import CompileOptions
from radixrt.recipe import CODE, READ, WRITTEN, filled, from_file, read, schema, template, to_toml, tomllib
from radixrt.request import EngineRequest
from tests.cli_runner import radixrt

PUBLISHED = Path(__file__).parents[1] / "docs" / "recipe.schema.json"

RECIPE = """
model = "net.onnx"
precision = "fp16"
target = ["openvino"]
data = "photographs/"
against = "compile,old"
[preprocess]
input_size = [3, 224, 224]
mean = [0.5, 0.5, 0.5]
[gates]
max_drop = 0.5
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_fills_the_same_object(recipe: Path) -> None:
    asked = from_file(CompileOptions, recipe, precision="int8")
    assert asked == CompileOptions(
        model=str(recipe.parent / "net.onnx"),
        precision=asked.precision,
        target=["openvino"],
        data=str(recipe.parent / "photographs"),
        against=["compile", str(recipe.parent / "old")],
        input_size=[3, 224, 224],
        mean=[0.5, 0.5, 0.5],
        max_drop=0.5,
    )
    assert asked.precision == "int8" and EngineRequest.of(from_file(CompileOptions, recipe, against=())).gates.max_drop


def test_only_what_lies_on_the_disk_is_found_from_the_recipes_folder(recipe: Path) -> None:
    recipe.write_text('model = "torch.nn:Identity"\ndata = "our.data:make"\nmetric = "-judge.py:loss"\n')
    asked = from_file(CompileOptions, recipe)
    assert (asked.model, asked.data) == ("torch.nn:Identity", "our.data:make")
    assert asked.metric == f"-{recipe.parent}/judge.py:loss"


def test_a_device_has_a_name_that_a_folder_can_have(recipe: Path) -> None:
    recipe.write_text('model = "net.onnx"\n[device."a/b"]\nssh = "x"\n')
    with pytest.raises(InputError, match="no device can be called 'a/b'"):
        from_file(CompileOptions, recipe)


def test_json_says_the_same_as_toml(recipe: Path) -> None:
    twin = recipe.with_suffix(".json")
    twin.write_text(json.dumps(read(recipe)))
    assert from_file(CompileOptions, twin) == from_file(CompileOptions, recipe)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('presicion = "int8"', "unknown option presicion: did you mean precision"),
        ("[gates]\nmax_dorp = 1", r"unknown key max_dorp in \[gates\]: did you mean max_drop"),
        ("[limits]\nmax_drop = 1", r"unknown table \[limits\]"),
        ("[gate]\nmax_drop = 1", r"unknown table \[gate\]: did you mean \[gates\]\?"),
        ("[gates]\nmax_drop = -1", "max_drop is -1"),
        ('[device.orin]\nshh = "orin"', r"in \[device.orin\]: unknown option shh: did you mean ssh\?"),
        ("precision = 8", "precision is 8"),
        ('precision = ["fp16", "int8"]', "lists of precision are for `radixrt sweep`"),
        ("= 3", "not a TOML file"),
    ],
)
def test_a_bad_recipe_is_one_sentence_that_names_the_file(tmp_path: Path, text: str, said: str) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        from_file(CompileOptions, recipe)
    assert str(recipe) in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_line_and_python_take_recipes(recipe: Path) -> None:
    gone = radixrt("engine", recipe.with_name("gone.toml"))
    assert gone.code == 2 and "cannot read the recipe" in gone.sentence
    # What stands on the command line is checked, and named, as it is typed there.
    assert "--threads is -2" in radixrt("engine", recipe, "--threads", "-2").sentence
    assert str(recipe.parent / "old") in radixrt("engine", recipe).sentence
    with pytest.raises(InputError, match=r"/old has no manifest\.json"):
        rt.compile(recipe)


def test_every_option_that_names_a_file_is_read_or_written() -> None:
    # A new one must say which: what is read starts in the recipe's folder.
    named = {field.name for field in fields(CompileOptions) if "Path" in str(hints_of(CompileOptions)[field.name])}
    assert named == {*CODE, *READ, *WRITTEN}


def test_code_and_names_in_a_recipe_are_told_from_files(tmp_path: Path) -> None:
    asked = {}
    for model in ("resnest50", "timm:resnet18", "pkg.module:make", "net.py:make", "/at/net.onnx"):
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(f'model = "{model}"\ndata = "elpv"')
        asked[model] = from_file(CompileOptions, recipe)
    assert {one.data for one in asked.values()} == {"elpv"}
    changed = {model: one.model for model, one in asked.items() if one.model != model}
    assert changed == {"net.py:make": f"{tmp_path}/net.py:make"}


def test_what_a_bundle_carries_is_the_recipe_it_was_made_by(tmp_path: Path) -> None:
    pins = {"model_sha256": "a" * 64, "data_sha256": "b" * 64}
    asked = filled(
        CompileOptions,
        {"model": "net.onnx", "precision": "fp16", "mean": [0.5], "max_drop": 2, "output": "out", "batch": "1..8"},
    )
    written = tmp_path / "recipe.toml"
    written.write_text(to_toml(asked, target="openvino", **pins), encoding="utf-8")
    again = from_file(CompileOptions, written)
    assert again.model == str(Path.cwd() / "net.onnx") and again.output is None
    assert (again.target, again.precision, again.batch) == ("openvino", Precision.FP16, "1..8")
    assert again.limits() == asked.limits() and again.model_sha256 == "a" * 64
    # Another network or other images than the recipe's: its hash is not of them.
    assert from_file(CompileOptions, written, checkpoint="best.pth").model_sha256 is None
    assert from_file(CompileOptions, written, data="elpv").data_sha256 is None


@pytest.mark.parametrize("name", ["preprocess", "gates"])
def test_a_file_in_the_place_of_a_table_comes_back(tmp_path: Path, name: str) -> None:
    limits = tmp_path / "gates.toml"
    limits.write_text("max_drop = 3\n")
    given = {"preprocess": tmp_path / "p.json", "mean": "0.5"} if name == "preprocess" else {"gates": limits}
    written = tmp_path / "recipe.toml"
    written.write_text(to_toml(filled(CompileOptions, given)), encoding="utf-8")
    again = from_file(CompileOptions, written)
    if name == "preprocess":
        assert (Path(str(again.preprocess)), again.mean) == (tmp_path / "p.json", "0.5")
    else:
        assert again.limits().max_drop == 3 and again.gates is None


def test_other_weights_than_those_pinned_are_refused() -> None:
    here = PinOptions(model_sha256="a" * 64, data_sha256="b" * 64)
    here.check(here)
    PinOptions().check(here)
    with pytest.raises(InputError, match="the set of images is not the one that data_sha256 names"):
        PinOptions(data_sha256="c" * 64).check(here)


def test_a_new_recipe_says_the_defaults_and_explains_them(tmp_path: Path) -> None:
    written = tmp_path / "recipe.toml"
    done = radixrt("recipe", "init", "senet-nano-elpv", "--output", written)
    assert done.code == 0 and written.read_text() == template("senet-nano-elpv")
    asked, plain = from_file(CompileOptions, written), filled(CompileOptions, {"model": "senet-nano-elpv"})
    assert {name: getattr(asked, name) or None for name in vars(asked)} == {
        name: getattr(plain, name) or None for name in vars(plain)
    }
    again = radixrt("recipe", "init", "senet-nano-elpv", "--output", written)
    assert again.code == 2 and "exists" in again.sentence
    assert radixrt("recipe", "init", "senet-nano-elpf").code == 2
    # A line whose comment is taken away is a line of a recipe.
    bare = "\n".join(line.removeprefix("# ") if " = " in line else line for line in written.read_text().splitlines())
    written.write_text(bare)
    assert set(read(written)) > {"checkpoint", "preprocess", "gates"}


def test_the_schema_takes_what_the_code_takes(recipe: Path) -> None:
    found = schema(CompileOptions)
    jsonschema.Draft202012Validator.check_schema(found)
    jsonschema.validate(read(recipe), found)
    for wrong in ({"presicion": "int8"}, {"gates": {"max_dorp": 1}}, {"threads": -2}, {"calibration_images": 0}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, found)


def test_the_schema_takes_the_recipes_of_the_manual() -> None:
    manual = PUBLISHED.with_name("fleet.md").read_text(encoding="utf-8")
    recipes = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", manual, re.DOTALL)]
    assert any(isinstance(recipe["model"], list) for recipe in recipes)
    published = json.loads(PUBLISHED.read_text(encoding="utf-8"))
    for recipe in recipes:
        jsonschema.validate(recipe, published)
    for wrong in ({"model": [{"name": "x"}]}, {"model": [{"model": "x", "dta": "y"}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, published)


def test_the_published_schema_is_current() -> None:
    # To publish a change: write what stands on the right there, indented by two.
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == schema(SweepOptions, SWEPT)
