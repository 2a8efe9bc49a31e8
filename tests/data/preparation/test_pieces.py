"""Pieces of work: each is done once, and again if its output is gone."""

from configs.prepare import WorkFlags
from data.preparation import pieces
from data.preparation.pieces import run_pieces


def test_a_piece_whose_output_is_gone_is_done_again(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(pieces, "_keep_freed_memory", lambda: None)

    def piece(work, index):
        made.append(index)
        return {"number": index}

    def run():
        return run_pieces(
            tmp_path, "x", piece, [()] * 3, flags=WorkFlags(num_workers=1), sizes=[1] * 3, unit="x",
            intact=lambda result: result["number"] != 1,
        )  # fmt: skip

    assert run() == run() == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert made == [0, 1, 2, 1]
