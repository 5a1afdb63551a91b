"""A bundle is what its manifest says, byte for byte, or it is refused; what is no bundle is never replaced."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from radixrt.engines.base import BuildOptions, BuiltEngine
from radixrt.engines.bundle import compatibility
from radixrt.engines.bundle.compatibility import Host, built_for, check_fits
from radixrt.engines.bundle.folder import Bundle, BundleWriter
from radixrt.engines.bundle.manifest import BuiltFor, Manifest
from radixrt.engines.registry import get
from radixrt.engines.tensorrt.available import Gpu
from radixrt.errors import InputError
from radixrt.export.spec import Precision
from tests.engines.bundle.bundles import CLASSES, SIZE, manifest, tiny_network, write_bundle


def rewrite_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_bundle_reads_back_and_its_engine_runs(tmp_path: Path) -> None:
    written = write_bundle(tmp_path / "bundle")
    bundle = Bundle.read(tmp_path / "bundle")
    assert bundle == written
    names = [entry.name for entry in bundle.manifest.files]
    assert names == [
        "answers.py",
        "bundle_files.py",
        "bundle_plan.py",
        "cuda_driver.py",
        "cuda_graph.py",
        "deploy.onnx",
        "engine.onnx",
        "pixels.py",
        "report.json",
        "run.py",
    ]
    with bundle.open() as session:
        out = session.run({"input": np.zeros((1, 3, SIZE, SIZE), np.float32)})
    assert out["logits"].shape == (1, CLASSES)


# A key that is new in this version is absent in a bundle of the last one, which must open all the same.
def test_a_manifest_with_fewer_keys_opens(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "bundle").path / "manifest.json"
    told = json.loads(path.read_text())
    del told["model"]["logits"], told["built_for"]
    path.write_text(json.dumps(told))
    Bundle.read(tmp_path / "bundle").open().close()


def test_nothing_is_left_beside_a_finished_bundle(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    write_bundle(tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_same_manifest_is_always_the_same_bytes(tmp_path: Path) -> None:
    first = write_bundle(tmp_path / "a").manifest
    second = write_bundle(tmp_path / "b").manifest
    assert first.to_bytes() == second.to_bytes()
    assert Manifest.from_bytes(first.to_bytes(), "it") == first


def test_every_single_changed_file_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    for entry in bundle.manifest.files:
        copy = tmp_path / f"copy-{entry.name}"
        shutil.copytree(bundle.path, copy)
        data = bytearray((copy / entry.name).read_bytes())
        data[len(data) // 2] ^= 1
        (copy / entry.name).write_bytes(bytes(data))
        with pytest.raises(InputError, match=f"{entry.name} is not what the build wrote"):
            Bundle.read(copy)


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle").path
    (bundle / "extra.bin").write_text("x")
    with pytest.raises(InputError, match=r"holds extra\.bin"):
        Bundle.read(bundle)
    (bundle / "extra.bin").unlink()
    (bundle / "report.json").unlink()
    with pytest.raises(InputError, match=r"lacks report\.json"):
        Bundle.read(bundle)


def test_a_link_in_a_bundle_is_refused(tmp_path: Path) -> None:
    # Its target has the right bytes today; who owns the target decides what it has tomorrow.
    bundle = write_bundle(tmp_path / "bundle").path
    outside = tmp_path / "engine.onnx"
    (bundle / "engine.onnx").rename(outside)
    (bundle / "engine.onnx").symlink_to(outside)
    with pytest.raises(InputError, match="not a plain file"):
        Bundle.read(bundle)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "a/../../b", "a\\b", "C:evil", "", "a//b", "./a", "manifest.json", "a\nb"]
)
def test_a_file_name_that_could_leave_the_bundle_is_refused(tmp_path: Path, name: str) -> None:
    bundle = write_bundle(tmp_path / "bundle").path
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    rewrite_manifest(bundle, files=[*files, {"name": name, "bytes": 0, "sha256": "0" * 64}])
    with pytest.raises(InputError, match=r"damaged at files\."):
        Bundle.read(bundle)
    rewrite_manifest(bundle, files=files, engine=name)
    with pytest.raises(InputError, match="damaged at engine"):
        Bundle.read(bundle)


def test_a_newer_schema_is_refused_with_what_to_do(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle").path
    rewrite_manifest(bundle, schema_version=2)
    with pytest.raises(InputError, match="has schema 2, this RadixRT reads up to 1: upgrade"):
        Bundle.read(bundle)


def test_an_engine_without_a_hash_is_refused(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle").path
    rewrite_manifest(bundle, engine="other.onnx")
    with pytest.raises(InputError, match=r"no hash for other\.onnx"):
        Bundle.read(bundle)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"format": "zip"}'])
def test_what_is_no_manifest_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    bundle = write_bundle(tmp_path / "bundle").path
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json is"):
        Bundle.read(bundle)


def test_a_folder_that_is_no_bundle_and_no_folder_at_all(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match=r"has no manifest\.json"):
            Bundle.read(path)


def test_a_bundle_replaced_while_it_is_opened_is_noticed(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    write_bundle(tmp_path / "bundle", batch=(1, 8))
    with pytest.raises(InputError, match="was replaced while it was being opened"):
        bundle.open()


# What is there already


def test_a_folder_with_the_users_files_is_left_alone(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "holiday.jpg").write_text("dear")
    with pytest.raises(InputError, match="is not a bundle"):
        BundleWriter.check_writable(photos)
    with pytest.raises(InputError, match="is not a bundle"):
        write_bundle(photos)
    assert (photos / "holiday.jpg").read_text() == "dear"


# Somebody who names a project's folder by mistake must hear that it is no bundle, not that a link in it is damaged.
def test_a_project_folder_is_called_no_bundle_whatever_lies_in_it(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "python").symlink_to("/usr/bin/env")
    with pytest.raises(InputError, match="is not a bundle of this RadixRT, so it is left alone"):
        BundleWriter.check_writable(project)


def test_a_bundle_with_folders_nested_deeper_than_python_can_recurse_is_refused(tmp_path: Path) -> None:
    path = write_bundle(tmp_path / "bundle").path
    deepest = path
    try:
        for _ in range(1500):
            deepest /= "d"
            deepest.mkdir()
        (deepest / "file").write_text("")
        with pytest.raises(InputError, match="which its manifest does not list"):
            Bundle.read(path)
    finally:
        subprocess.run(["rm", "-rf", str(path)], check=True)  # pytest's own tidying would recurse


def test_a_bundle_with_a_file_of_the_user_in_it_is_left_alone(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle").path
    (bundle / "notes.txt").write_text("dear")
    with pytest.raises(InputError, match=r"holds notes\.txt, which no build put there"):
        write_bundle(bundle)
    assert (bundle / "notes.txt").read_text() == "dear"


def test_a_damaged_bundle_can_be_built_again(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle").path
    (bundle / "engine.onnx").write_text("damaged")
    write_bundle(bundle)
    Bundle.read(bundle)


def test_an_output_that_is_a_file_or_lies_in_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file", tmp_path / "file" / "bundle"):
        with pytest.raises(InputError, match="is a file"):
            BundleWriter.check_writable(output)
        with pytest.raises(InputError, match="is a file"):
            write_bundle(output)


def test_an_output_that_cannot_be_written_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so the refusal is the system's answer to the very call, not a mode bit.
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(InputError, match="cannot be written"):
        BundleWriter.check_writable(tmp_path / "deep" / "bundle")
    assert not (tmp_path / "deep").exists()


def test_a_link_to_a_bundle_is_replaced_where_it_points(tmp_path: Path) -> None:
    write_bundle(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    write_bundle(tmp_path / "link", batch=(1, 8))
    assert (tmp_path / "link").is_symlink()
    assert Bundle.read(tmp_path / "real").manifest.batch == (1, 8)


def test_a_bundle_has_the_permissions_of_any_new_folder(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    bundle = write_bundle(tmp_path / "bundle").path
    assert bundle.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failed_build_leaves_the_old_bundle(tmp_path: Path) -> None:
    old = write_bundle(tmp_path / "bundle")
    with pytest.raises(RuntimeError), BundleWriter(tmp_path / "bundle") as writer:
        (writer.folder / "engine.onnx").write_text("half")
        raise RuntimeError
    assert Bundle.read(tmp_path / "bundle") == old
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_manifest_that_names_a_file_nobody_wrote_replaces_nothing(tmp_path: Path) -> None:
    old = write_bundle(tmp_path / "bundle")
    with pytest.raises(InputError, match=r"no hash for engine\.onnx"), BundleWriter(tmp_path / "bundle") as writer:
        tiny_network(writer.folder / "deploy.onnx")
        writer.finish(manifest())
    assert Bundle.read(tmp_path / "bundle") == old


# Where a plan fits

PLAN = BuiltFor(
    system="Linux",
    machine="aarch64",
    library="tensorrt",
    library_version="10.3.0",
    device="Orin",
    compute_capabilities=("8.7",),
)
ORIN = Host("Linux", "aarch64", "10.3.0", "Orin", "8.7")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"system": "Windows"}, "operating system Linux and this machine has Windows"),
        ({"machine": "x86_64"}, "processor family aarch64 and this machine has x86_64"),
        ({"library_version": "10.4.0"}, r"tensorrt version 10\.3\.0 and this machine has 10\.4\.0"),
        ({"compute_capability": "7.2", "device": "Xavier"}, r"compute capability 8\.7 and this machine has 7\.2"),
    ],
)
def test_a_plan_for_something_else_is_refused_in_words(change: dict[str, str], said: str) -> None:
    check_fits(PLAN, ORIN, "it")
    with pytest.raises(InputError, match=said):
        check_fits(PLAN, dataclasses.replace(ORIN, **change), "it")


def test_portable_plans_open_where_their_promise_reaches() -> None:
    portable = PLAN.model_copy(update={"version_compatible": True, "hardware_compatible": True})
    check_fits(portable, dataclasses.replace(ORIN, library_version="10.13.2", compute_capability="12.0"), "it")
    for beyond in ({"library_version": "11.0.0"}, {"library_version": "10.2.9"}, {"compute_capability": "7.5"}):
        with pytest.raises(InputError):
            check_fits(portable, dataclasses.replace(ORIN, **beyond), "it")


def test_a_plan_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BundleWriter(tmp_path / "bundle") as writer:
        tiny_network(writer.folder / "deploy.onnx")
        (writer.folder / "engine.plan").write_bytes(b"never to be opened")
        bundle = writer.finish(
            manifest(
                target="tensorrt-rtx",
                engine="engine.plan",
                built_for=PLAN.model_copy(update={"system": "Plan9"}),
            )
        )
    monkeypatch.setattr(
        "radixrt.engines.base.Target.open", lambda *_, **__: pytest.fail("the plan was opened", pytrace=False)
    )
    with pytest.raises(InputError, match="built for operating system Plan9"):
        bundle.open()


def test_what_a_manifest_says_of_an_engine_built_here(tmp_path: Path) -> None:
    built = BuiltEngine((tmp_path / "engine.plan",), 1.0, facts={"compute_capabilities": "8.6, 12.0"})
    options = BuildOptions(Precision.FP16)
    assert built_for(get("onnxruntime"), options, built) is None
    plan = built_for(get("tensorrt-rtx"), options, built)
    assert plan is not None
    assert plan.compute_capabilities == ("8.6", "12.0")
    assert plan.library_version == get("tensorrt-rtx").capability().version


# TensorRT itself builds for the GPU that is here, whatever was asked of TensorRT for RTX in the same command: a
# manifest that says otherwise would refuse the plan on the very machine that built it.
def test_a_tensorrt_plan_is_for_the_gpu_that_built_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compatibility, "find_gpu", lambda: Gpu("Orin", "8.7"))
    built = BuiltEngine((tmp_path / "engine.plan",), 1.0)
    plan = built_for(get("tensorrt"), BuildOptions(Precision.FP16, compute_capabilities=("8.6",)), built)
    assert plan is not None
    assert plan.compute_capabilities == ("8.7",)
