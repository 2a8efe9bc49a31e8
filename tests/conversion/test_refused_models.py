"""Models that are not BERT or not sound are refused by name; odd spellings of sound ones are read."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conversion import load_any, read_checkpoint, write_checkpoint
from inference import load
from tests.conversion.samples import FIXTURES, assert_same_state, model_config, model_directory, model_state
from tests.conversion.test_formats import safetensors_file
from tests.conversion.test_torch_pickle import archive, integer, text
from utils.errors import UserError

ROOT = Path(__file__).parents[2]


def write_model(directory, state, config=None):
    directory.mkdir(exist_ok=True)
    save_file(state, directory / "model.safetensors")
    if config is not None:
        (directory / "config.json").write_text(json.dumps(config))
    return directory


# ---- configurations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({"model_type": kind}, f"is of type '{kind}'") for kind in ("albert", "xlnet", "deberta-v2")),
        *(({"model_type": kind}, "weights are not those of") for kind in ("roberta", "distilbert", "electra")),
        ({"model_type": None, "architectures": ["RobertaForMaskedLM"]}, "weights are not those of Roberta"),
        ({"model_type": None, "architectures": ["XLNetModel"]}, "is of type 'XLNetModel'"),
        ({"is_decoder": True}, "is a decoder"),
        ({"add_cross_attention": True}, "is a decoder"),
        ({"position_embedding_type": "relative_key"}, "'relative_key' position embeddings"),
        ({"hidden_act": "mish"}, "mish"),
        ({"num_hidden_layers": 10**9}, "--num_hidden_layers must be at most"),
        ({"num_labels": 10**9}, "--num_labels must be at most"),
        ({"max_position_embeddings": 10**9}, "--max_position_embeddings must be at most"),
        ({"vocab_size": 10**400}, "--vocab_size must be at most"),
        ({"vocab_size": -(10**400)}, "--vocab_size must be at least 1"),
        ({"layer_norm_eps": 10**400}, "layer_norm_eps in config.json must be a number"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps must be at least 0"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be at least 0"),
        ({"layer_norm_eps": -1e-12}, "layer_norm_eps must be at least 0"),
        ({"pad_token_id": -5}, "pad_token_id -5 is not an id"),
        ({"hidden_dropout_prob": float("nan")}, "--hidden_dropout_prob"),
    ],
)
def test_a_configuration_of_another_model(tmp_path, state, config, changes, message):
    with pytest.raises(UserError, match=message):
        load_any(write_model(tmp_path / "m", state, config | changes))


def test_null_means_the_default(tmp_path, state, config):
    names = ("hidden_act", "layer_norm_eps", "pad_token_id", "position_embedding_type", "vocab_size", "model_type")
    expected, _ = load_any(write_model(tmp_path / "m", state, {k: v for k, v in config.items() if k not in names}))
    nulls = config | dict.fromkeys((*names, "is_decoder", "id2label", "num_labels", "problem_type"))
    assert load_any(write_model(tmp_path / "m", state, nulls))[0] == expected


def test_a_foreign_model_without_a_configuration_is_shown_by_a_tensor(tmp_path):
    with pytest.raises(UserError, match=r"no BERT encoder.*'distilbert\.embeddings\.LayerNorm\.weight'"):
        load_any(write_model(tmp_path / "m", {"distilbert.embeddings.LayerNorm.weight": np.ones(3, np.float32)}))


# ---- tensors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model._orig_mod.module."])
def test_prefixes_of_wrapped_modules(tmp_path, state, config, prefix):
    renamed = {prefix + name: array for name, array in state.items()}
    assert_same_state(load_any(write_model(tmp_path / "m", renamed, config))[1], state)


def test_a_compiled_part_of_a_module(tmp_path, state, config):
    renamed = {name.replace("bert.encoder.", "bert.encoder._orig_mod."): array for name, array in state.items()}
    assert_same_state(load_any(write_model(tmp_path / "m", renamed, config))[1], state)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path, state, config, value):
    state["bert.encoder.layer.1.output.dense.bias"][2] = value
    directory = write_model(tmp_path / "m", state, config)
    with pytest.raises(UserError, match=r"NaN or infinite.*1 tensors \(first: bert\.encoder\.layer\.1\.output"):
        write_checkpoint(read_checkpoint(directory), tmp_path / "out")
    with pytest.raises(UserError, match="NaN or infinite"):
        load(directory)


@pytest.mark.parametrize("kind", ["?", "i1", "u1", "<i8", "<u8"])
def test_weights_that_are_not_floating_point_are_refused(tmp_path, state, config, kind):
    name = "bert.pooler.dense.weight"
    state[name] = state[name].astype(kind)
    with pytest.raises(UserError, match=rf"{name} has dtype .* but floating-point numbers are needed"):
        load_any(write_model(tmp_path / "m", state, config))


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F4", "C64"])
@pytest.mark.parametrize("other", ["F32", "BF16"])
def test_types_that_numpy_does_not_have_are_one_sentence(tmp_path, kind, other):
    size = {"F32": 4, "BF16": 2}[other]
    bytes_ = {"C64": 16, "F4": 1}.get(kind, 2)
    header = {
        "a": {"dtype": other, "shape": [1], "data_offsets": [0, size]},
        "b": {"dtype": kind, "shape": [2], "data_offsets": [size, size + bytes_]},
    }
    path = safetensors_file(tmp_path / "model.safetensors", header, bytes(size + bytes_))
    with pytest.raises(UserError, match=r"b is quantized|safetensors"):
        load_any(path)


@pytest.mark.parametrize(
    "name", ["..", "../m.safetensors", "/etc/passwd", "sub/m.safetensors", "a\0.bin", "config.json", ""]
)
def test_an_index_names_files_beside_it_only(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(UserError, match=r"not an index of shards|does not exist"):
        load_any(tmp_path)


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
def test_suffixes_of_pytorch_files(tmp_path, suffix):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes((FIXTURES / "torch" / "zip.bin").read_bytes())
    for path in (file, tmp_path):  # the only file of its kind in a directory
        with pytest.raises(UserError, match="no BERT encoder"):
            load_any(path)
    (tmp_path / "other.pt").touch()
    with pytest.raises(UserError, match="is not a checkpoint"):
        load_any(tmp_path)


def many_tensors(count, size):
    """The pickle of `count` tensors that all are the same storage of `size` floats."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + integer(size) + b"tQ"
    call = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + integer(0)
        + b"("
        + integer(size)
        + b"t("
        + integer(1)
        + b"t"
    )
    tensors = b"".join(text(f"t{i}") + call + b"\x89NtR" for i in range(count))
    return b"\x80\x02}(" + tensors + b"u."


def test_many_tensors_on_one_storage_claim_no_memory(tmp_path):
    content = np.ones(50_000, "<f4").tobytes()
    bomb = archive(tmp_path / "m.bin", many_tensors(4000, 50_000), [("0", content)])
    assert bomb.stat().st_size < 2 << 20
    with pytest.raises(UserError, match=r"claim 800,000,000 bytes"):
        load_any(bomb)
    tied = archive(tmp_path / "tied.bin", many_tensors(2, 50_000), [("0", content)])
    with pytest.raises(UserError, match="no BERT encoder"):  # it was read
        load_any(tied)


def test_a_claimed_size_takes_no_memory(tmp_path, state, config):
    """In a process of its own, whose memory is bounded."""
    code = (
        "import sys; from modeling import BertForPreTraining; from utils.errors import UserError\n"
        "try: BertForPreTraining.from_pretrained(sys.argv[1])\n"
        "except UserError as error: print(error)"
    )
    sizes = {"vocab_size": 10_000_000, "hidden_size": 15_000, "intermediate_size": 200_000}
    write_model(tmp_path / "m", state, config | sizes)

    def bounded():
        resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m")],
        cwd=ROOT, capture_output=True, text=True, preexec_fn=bounded, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert "config.json describes" in done.stdout, done.stderr


def test_names_in_files_send_no_commands_to_the_terminal(tmp_path, state, config):
    state["evil\x1b]0;owned\x07"] = np.zeros(3, np.float32)
    report = str(read_checkpoint(write_model(tmp_path / "m", state, config)).report)
    assert "\x1b" not in report and r"evil\x1b]0;owned\x07" in report
    with pytest.raises(UserError) as caught:
        load_any(write_model(tmp_path / "n", {"\x1b[2Jevil": np.zeros(3, np.float32)}))
    assert "\x1b" not in str(caught.value) and r"\x1b[2Jevil" in str(caught.value)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_weights_have_the_permissions_of_any_new_file(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_checkpoint(read_checkpoint(model_directory("pretraining")), tmp_path / "out")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()}
    assert modes == {0o666 & ~mask}


def test_a_byte_order_mark_in_a_configuration(tmp_path, state, config):
    directory = write_model(tmp_path / "m", state, config)
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8-sig")
    assert_same_state(load_any(directory)[1], state)


def test_converted_weights_are_what_transformers_expects(tmp_path):
    write_checkpoint(read_checkpoint(model_directory("classification")), tmp_path / "out")
    assert_same_state(load_file(tmp_path / "out" / "model.safetensors"), model_state("classification"))
    kept = ("num_labels", "architectures", "model_type", "vocab_size")
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {name: content.get(name) for name in kept} == {
        name: model_config("classification").get(name) for name in kept
    }
