"""Flags that only one mode supports."""

import pytest

import kernels
from configs.cli import parse
from configs.pretraining import PretrainingConfig
from launch.job_shape import JobShape
from training.distributed import World
from training.step import check_mode
from utils.errors import UserError

WORLD = World(JobShape(), "cpu")


def check(mode, words):
    check_mode(mode, parse(PretrainingConfig, words.split()), WORLD)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--clip value --grad_acc_steps 2", "--clip value"),
        ("--activation_checkpointing", "--activation_checkpointing"),
        ("--optim_name lamb", "--stock_lamb"),
    ],
)
def test_graph_mode_refuses_what_it_cannot_do(words, message, monkeypatch):
    monkeypatch.setattr(kernels, "is_loaded", lambda: False)
    with pytest.raises(UserError, match=message):
        check("graph", words)
    check("eager", words)
    check("graph", f"{words} --do_train False")


def test_no_padding_needs_the_kernels(monkeypatch):
    monkeypatch.setattr(kernels, "is_loaded", lambda: False)
    for mode in ("eager", "graph"):
        for flag in ("--padding none", "--packing best_fit"):
            with pytest.raises(UserError, match=f"{flag} needs the CPU kernels .*: use --padding longest"):
                check(mode, flag)
    monkeypatch.setattr(kernels, "is_loaded", lambda: True)
    check("graph", "--padding none")


def test_graph_mode_accepts_what_it_can_do(monkeypatch):
    check("graph", "--clip value")
    monkeypatch.setattr(kernels, "is_loaded", lambda: True)
    check("graph", "--optim_name lamb")
    monkeypatch.setattr(kernels, "is_loaded", lambda: False)
    check("graph", "--optim_name lamb --stock_lamb")


@pytest.mark.parametrize(("mode", "flag"), [("graph", "use_ddp"), ("eager", "use_consistent")])
def test_a_flag_of_the_other_mode_is_warned_of(mode, flag, capsys):
    check(mode, f"--{flag}")
    assert f"--{flag} has no effect in {mode} mode" in capsys.readouterr().err
