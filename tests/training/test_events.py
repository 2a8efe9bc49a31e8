"""TensorBoard's event files, compared with tensorboardX's own writer."""

import errno
import struct

import pytest
from tensorboardX import SummaryWriter
from tensorboardX.proto.event_pb2 import Event

from training.events import EventFile


def events(directory):
    """The events of a directory's only file, without their times."""
    (path,) = directory.glob("events.out.tfevents.*")
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        event.wall_time = 0
        found.append(event)
        data = data[16 + length :]
    return found


@pytest.mark.parametrize("first_step", [0, 7])
def test_files_are_those_of_tensorboardx(tmp_path, first_step):
    reference = SummaryWriter(str(tmp_path / "reference"), purge_step=first_step or None)
    written = EventFile(tmp_path / "written", first_step)
    for step, name, value in [(7, "total_loss", 2.5), (8, "total_loss", float("nan")), (8, "eval/a b", 1.0)]:
        reference.add_scalar(name, value, step)
        written.add(step, name, value)
    reference.close()
    written.close()
    expected = [event for event in events(tmp_path / "reference") if not (event.file_version and event.step)]
    assert [str(event) for event in events(tmp_path / "written")] == [str(event) for event in expected]


def test_a_full_disk_is_an_error_of_the_caller(tmp_path, monkeypatch):
    written = EventFile(tmp_path)

    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        written.add(0, "total_loss", 1.0)
