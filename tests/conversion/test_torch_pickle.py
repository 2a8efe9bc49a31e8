"""PyTorch's files: read without PyTorch, and nothing in them is ever run."""

import io
import os
import pickle
import pickletools
import random
import struct
import zipfile

import numpy as np
import pytest

from conversion.torch_pickle import read_torch_file
from tests.conversion.samples import FIXTURES
from utils.errors import UserError

TORCH = FIXTURES / "torch"


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_every_kind_of_tensor(container):
    found = read_torch_file(TORCH / f"{container}.bin")
    with np.load(TORCH / "expected.npz") as expected:
        assert set(found) == set(expected)
        for name in expected:
            assert found[name].shape == expected[name].shape
            np.testing.assert_array_equal(found[name].astype(np.float64), expected[name], err_msg=name)


def archive(path, program, storages=(), compression=zipfile.ZIP_STORED):
    """A file in PyTorch's zip container around a pickle program of our choice."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        for key, content in storages:
            file.writestr(f"archive/data/{key}", content)
    return path


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value):
    content = value.to_bytes(9, "little", signed=True)
    return b"\x8a" + bytes([len(content)]) + content


def tensor_program(shape, strides, offset=0, *, storage="FloatStorage", key="0", numel=4):
    """The pickle of {"t": one tensor}, as torch.save writes it."""
    dims = b"(" + b"".join(map(integer, shape)) + b"t"
    steps = b"(" + b"".join(map(integer, strides)) + b"t"
    persistent = (
        b"(" + text("storage") + f"ctorch\n{storage}\n".encode() + text(key) + text("cpu") + integer(numel) + b"tQ"
    )
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + persistent + integer(offset) + dims + steps + b"\x89Nt"
    return b"\x80\x02}" + text("t") + call + b"R" + b"s."


def test_the_hand_made_archive_is_read(tmp_path):
    content = np.arange(4, dtype="<f4").tobytes()
    path = archive(tmp_path / "m.bin", tensor_program((2, 2), (1, 2)), [("0", content)])
    np.testing.assert_array_equal(read_torch_file(path)["t"], [[0, 2], [1, 3]])


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((5,), (1,), 0), ((2, 2), (1, 2), 1), ((1 << 40,), (0,), 0), ((2,), (-1,), 3), ((-1,), (1,), 0), ((2,), (1, 1), 0),
     ((1 << 62, 1 << 62), (1, 1), 0), ((0, 1 << 62), (1, 1), 0), ((2,), (1 << 60,), 0), ((1,) * 40, (1,) * 40, 0)],
)  # fmt: skip
def test_tensors_that_reach_beyond_their_data(tmp_path, shape, strides, offset):
    content = np.arange(4, dtype="<f4").tobytes()
    path = archive(tmp_path / "m.bin", tensor_program(shape, strides, offset), [("0", content)])
    with pytest.raises(UserError, match="refused"):
        read_torch_file(path)


class Malicious:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("container", ["zip", "plain"])
def test_code_is_refused_and_not_run(tmp_path, protocol, container):
    proof = tmp_path / "proof"
    for attack in (
        Malicious(os.system, f"touch {proof}"),
        Malicious(eval, f"open({str(proof)!r}, 'w')"),
        {"t": Malicious(os.mkdir, str(proof))},
    ):
        program = pickle.dumps(attack, protocol)
        path = tmp_path / "m.bin"
        archive(path, program) if container == "zip" else path.write_bytes(program)
        with pytest.raises(UserError):
            read_torch_file(path)
        assert not proof.exists()


def test_code_behind_the_legacy_magic_is_refused(tmp_path):
    proof = tmp_path / "proof"
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    (tmp_path / "m.bin").write_bytes(magic + pickle.dumps(Malicious(os.system, f"touch {proof}"), 2))
    with pytest.raises(UserError, match=r"refused: it asks for posix\.system\. No code in it was run"):
        read_torch_file(tmp_path / "m.bin")
    assert not proof.exists()


BOMBS = {
    "an allowed function on nothing": b"\x80\x02}" + text("t") + b"ctorch._utils\n_rebuild_parameter\n)Rs.",
    "a tensor as a function": b"\x80\x02ctorch\nFloatStorage\n)R.",
    "an instance": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "a huge string": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "a huge number": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "a byte array": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "tuples of tuples as a key": b"\x80\x02})" + b"q\x00h\x00\x86" * 64 + b"Ns.",
    "deep nesting": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".",
    "no end": b"\x80\x02" + b"]0" * 700_000,
    "a list": b"\x80\x02].",
    "nothing": b"",
    "setting items of nothing": b"\x80\x02(NNu.",
    "popping an empty stack": b"\x80\x020.",
    "an unbalanced mark": b"\x80\x02Nt.",
    "an extension": b"\x80\x02\x82\x01.",
}  # fmt: skip


@pytest.mark.parametrize("program", BOMBS.values(), ids=BOMBS)
def test_hostile_programs(tmp_path, program):
    with pytest.raises(UserError):
        read_torch_file(archive(tmp_path / "m.bin", program))


def test_a_huge_memo_index_costs_nothing(tmp_path):
    assert read_torch_file(archive(tmp_path / "m.bin", b"\x80\x02}r\xff\xff\xff\xff.")) == {}


def test_a_zip_bomb_is_refused_before_it_is_opened(tmp_path):
    content = bytes(50_000_000)
    path = archive(tmp_path / "m.bin", tensor_program((2,), (1,)), [("0", content)], zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(UserError, match="compressed"):
        read_torch_file(path)


def test_entries_that_overlap(tmp_path):
    """Several directory entries that point at the same bytes claim more than the file has."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", tensor_program((2,), (1,)))
        file.writestr("archive/data/0", bytes(10_000))
        for key in range(1, 9):
            info = zipfile.ZipInfo(f"archive/data/{key}")
            twin = file.getinfo("archive/data/0")
            info.header_offset, info.CRC = twin.header_offset, twin.CRC
            info.file_size = info.compress_size = twin.file_size
            file.filelist.append(info)
            file.NameToInfo[info.filename] = info
        file._didModify = True
    path = tmp_path / "m.bin"
    path.write_bytes(buffer.getvalue())
    with pytest.raises(UserError, match="claims more bytes"):
        read_torch_file(path)


def test_a_file_not_written_by_pytorch(tmp_path):
    for content in (b"", b"hello", b"PK\x03\x04", b"version https://git-lfs.github.com/spec/v1\n"):
        (tmp_path / "m.bin").write_bytes(content)
        with pytest.raises(UserError, match="not a readable PyTorch file"):
            read_torch_file(tmp_path / "m.bin")


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_damaged_files_never_crash(tmp_path, container):
    """Truncated anywhere and with bytes changed anywhere: an answer or a UserError, nothing else."""
    whole = (TORCH / f"{container}.bin").read_bytes()
    generator = random.Random(7)
    path = tmp_path / "m.bin"
    refused = 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            content[generator.randrange(len(content))] = generator.randrange(256)
        if generator.random() < 0.3:
            del content[generator.randrange(len(content)) :]
        path.write_bytes(content)
        try:
            read_torch_file(path)
        except UserError:
            refused += 1
    assert refused > 100


def test_random_programs_never_crash(tmp_path):
    opcodes = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
    generator = random.Random(11)
    for _ in range(300):
        program = b"\x80\x02"
        for _ in range(generator.randint(1, 30)):
            program += generator.choice(opcodes) + generator.randbytes(generator.choice((0, 0, 1, 4)))
        with pytest.raises(UserError):
            read_torch_file(archive(tmp_path / "m.bin", program + b"."))
