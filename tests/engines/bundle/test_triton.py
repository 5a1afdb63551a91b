"""The model repository says what the engine takes, in words that Triton's own message types read."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest

from radixrt.engines.bundle.folder import Bundle, BundleWriter
from radixrt.engines.bundle.triton import TritonOptions, read_config, write_model
from radixrt.errors import InputError
from tests.cli_runner import radixrt
from tests.engines.bundle.bundles import CLASSES, SIZE, manifest, tiny_network, write_bundle
from tests.validate.reports import make_report

pytest.importorskip("tritonclient")


def plan_bundle(output: Path, target: str = "tensorrt", batch: tuple[int, int] = (1, 16)) -> Bundle:
    with BundleWriter(output) as writer:
        tiny_network(writer.folder / "deploy.onnx", "batch")
        (writer.folder / "engine.plan").write_bytes(b"plan")
        return writer.finish(manifest(target=target, engine="engine.plan", batch=batch))


def test_an_open_batch_is_batched_by_the_server(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny", batch=(1, 8))
    model = write_model(bundle, tmp_path / "models", TritonOptions(instances=2, queue_delay_us=500))
    config = read_config(model / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == ("tiny", "onnxruntime", 8)
    (taken,), (given,) = config.input, config.output
    assert (taken.name, list(taken.dims), given.name, list(given.dims)) == (
        "input",
        [3, SIZE, SIZE],
        "logits",
        [CLASSES],
    )
    assert list(config.dynamic_batching.preferred_batch_size) == [8]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.instance_group[0].count == 2
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 8]
    assert list(config.model_warmup[0].inputs["input"].dims) == [3, SIZE, SIZE]
    # The served file is a model that takes such a batch, under the tensor names that the config gives.
    served = onnxruntime.InferenceSession(str(model / "1" / "model.onnx"))
    assert served.get_inputs()[0].shape[0] == "batch"
    assert [value.name for value in onnx.load(model / "1" / "model.onnx").graph.output] == ["logits"]


def test_a_fixed_batch_keeps_its_complete_shape(tmp_path: Path) -> None:
    model = write_model(write_bundle(tmp_path / "tiny", batch=(4, 4)), tmp_path / "models")
    config = read_config(model / "config.pbtxt")
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [4, 3, SIZE, SIZE]
    assert not config.HasField("dynamic_batching")
    # The server skips a warm-up of batch 0 without a word.
    assert config.model_warmup[0].batch_size == 1


def test_a_plan_runs_on_the_gpu(tmp_path: Path) -> None:
    model = write_model(plan_bundle(tmp_path / "plan"), tmp_path / "models", TritonOptions(name="other"))
    config = read_config(model / "config.pbtxt")
    assert (model.name, config.name, config.platform) == ("other", "other", "tensorrt_plan")
    assert config.instance_group[0].kind == config.instance_group[0].KIND_GPU
    assert (model / "1" / "model.plan").read_bytes() == b"plan"


def test_labels_are_where_the_output_says(tmp_path: Path) -> None:
    model = write_model(write_bundle(tmp_path / "tiny"), tmp_path / "models")
    name = read_config(model / "config.pbtxt").output[0].label_filename
    assert (model / name).read_text().split() == ["ash", "beech", "cedar", "dogwood"]


def test_a_model_is_replaced_and_what_is_none_is_left_alone(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny")
    model = write_model(bundle, tmp_path / "models")
    write_model(write_bundle(tmp_path / "tiny", batch=(1, 8)), tmp_path / "models")
    assert read_config(model / "config.pbtxt").max_batch_size == 8
    (model / "notes.txt").write_text("dear")
    with pytest.raises(InputError, match=r"holds notes\.txt"):
        write_model(bundle, tmp_path / "models")
    assert (model / "notes.txt").read_text() == "dear"


def test_what_the_server_cannot_serve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no backend for tensorrt-rtx"):
        write_model(plan_bundle(tmp_path / "rtx", target="tensorrt-rtx"), tmp_path / "models")
    with pytest.raises(InputError, match="takes at least 2"):
        write_model(plan_bundle(tmp_path / "two", batch=(2, 8)), tmp_path / "models")
    with pytest.raises(InputError, match="cannot name a model"):
        write_model(plan_bundle(tmp_path / "name"), tmp_path / "models", TritonOptions(name="../up"))
    assert not (tmp_path / "models").exists()


def test_a_damaged_config_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.pbtxt").write_text("max_batch_size: many")
    with pytest.raises(InputError, match="not a Triton model configuration"):
        read_config(tmp_path / "config.pbtxt")


def test_a_bundle_replaced_before_the_copy_is_noticed(tmp_path: Path) -> None:
    old = plan_bundle(tmp_path / "plan")
    with BundleWriter(tmp_path / "plan") as writer:
        tiny_network(writer.folder / "deploy.onnx", "batch")
        (writer.folder / "engine.plan").write_bytes(b"another plan")
        writer.finish(manifest(target="tensorrt", engine="engine.plan", batch=(1, 16)))
    with pytest.raises(InputError, match="changed while it was copied"):
        write_model(old, tmp_path / "models")
    assert not (tmp_path / "models" / "plan").exists()


def test_sizes_that_were_measured_best_are_preferred_and_threads_are_the_instance_s(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny", batch=(1, 8))
    model = write_model(bundle, tmp_path / "models", TritonOptions(threads=3, preferred=(2, 4, 16)))
    config = read_config(model / "config.pbtxt")
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    with pytest.raises(InputError, match="threads are of an engine on a CPU"):
        write_model(plan_bundle(tmp_path / "plan"), tmp_path / "models", TritonOptions(threads=3))


def test_versions_stand_beside_each_other(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny")
    first = (write_model(bundle, tmp_path / "models") / "1" / "model.onnx").read_bytes()
    model = write_model(bundle, tmp_path / "models", TritonOptions(version=12))
    assert (model / "1" / "model.onnx").read_bytes() == (model / "12" / "model.onnx").read_bytes() == first


def test_a_config_edited_by_hand_is_overwritten_only_by_force(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "tiny", batch=(1, 8))
    config = write_model(bundle, tmp_path / "models") / "config.pbtxt"
    written = config.read_text()
    config.write_text(written + "# keep me\n")
    with pytest.raises(InputError, match=r"config\.pbtxt was edited by hand: .*--force"):
        write_model(bundle, tmp_path / "models")
    assert config.read_text().endswith("# keep me\n")
    write_model(bundle, tmp_path / "models", TritonOptions(force=True))
    assert config.read_text() == written


def test_the_command_takes_what_the_report_measured(tmp_path: Path) -> None:
    report = make_report()
    assert report.latency is not None
    rows = [
        report.latency.rows[0].model_copy(update={"batch": batch, "images_per_s": speed})
        for batch, speed in ((1, 100.0), (2, 190.0), (4, 240.0), (8, 238.0))
    ]
    method = report.latency.method.model_copy(update={"threads": 2})
    latency = report.latency.model_copy(update={"rows": rows, "method": method})
    with BundleWriter(tmp_path / "tiny") as writer:
        tiny_network(writer.folder / "deploy.onnx", "batch")
        (writer.folder / "engine.onnx").write_bytes((writer.folder / "deploy.onnx").read_bytes())
        report.model_copy(update={"latency": latency}).write(writer.folder / "report.json")
        writer.finish(manifest(batch=(1, 8)))
    words = ("bundle", tmp_path / "tiny", "--triton", tmp_path / "models")
    done = radixrt(*words, "--version", 3)
    assert done.code == 0, done.err
    config = read_config(tmp_path / "models" / "tiny" / "config.pbtxt")
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert (tmp_path / "models" / "tiny" / "3" / "model.onnx").is_file()
    (tmp_path / "models" / "tiny" / "config.pbtxt").write_text("")
    done = radixrt(*words)
    assert (done.code, "edited by hand" in done.sentence) == (2, True)
    assert radixrt(*words, "--force", "--threads", 1).code == 0
