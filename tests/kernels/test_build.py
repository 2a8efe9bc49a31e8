"""Building the kernels: when it is needed, and what is missing."""

import subprocess

import pytest

from kernels import build


@pytest.fixture
def outdated(monkeypatch):
    monkeypatch.setattr(build, "fingerprint", lambda sanitize=False: "of other sources")
    monkeypatch.setattr(build, "_run", lambda command: pytest.fail(f"ran {command}"))
    monkeypatch.setenv("CXX", "true")


@pytest.mark.parametrize(
    ("module", "name", "value", "words"),
    [
        (build.platform, "machine", lambda: "aarch64", "need x86-64 Linux, but this is aarch64"),
        (build.sys, "platform", "darwin", "darwin"),
        (build, "oneflow_version", lambda: "0.8.0", r"need OneFlow 0\.9\.0, but 0\.8\.0 is installed"),
        (build.shutil, "which", lambda name: None, "no C\\+\\+ compiler .* install g"),
    ],
)
def test_missing_requirements_are_named(outdated, monkeypatch, module, name, value, words):
    monkeypatch.setattr(module, name, value)
    with pytest.raises(build.BuildError, match=words):
        build.build()


def test_missing_onednn_headers_are_named(outdated, monkeypatch, tmp_path):
    monkeypatch.setattr(build, "ENVIRONMENT", tmp_path)
    with pytest.raises(build.BuildError, match="oneDNN's headers"):
        build.build()


def test_up_to_date_libraries_are_not_built_again(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "LIB", tmp_path)
    monkeypatch.setattr(build, "_run", lambda command: pytest.fail(f"ran {command}"))
    assert not build.is_current()
    (tmp_path / "fingerprint").write_text(build.fingerprint() + "\n")
    assert build.is_current() and build.build() is False
    (tmp_path / "fingerprint").write_text(build.fingerprint(sanitize=True) + "\n")
    assert build.is_current() and build.build(sanitize=True) is False


def test_the_fingerprint_depends_on_sources_version_and_sanitizer(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "HERE", tmp_path)
    (tmp_path / "src").mkdir()
    source = tmp_path / "src" / "some.cpp"
    found = set()
    for content, version, sanitize in [("a", "1", False), ("b", "1", False), ("a", "2", False), ("a", "1", True)]:
        source.write_text(content)
        monkeypatch.setattr(build, "oneflow_version", lambda version=version: version)
        found.add(build.fingerprint(sanitize))
    source.rename(source.with_name("other.cpp"))
    found.add(build.fingerprint(sanitize))
    assert len(found) == 5


def test_a_failed_compilation_shows_the_compilers_messages(monkeypatch):
    failed = subprocess.CompletedProcess([], 1, stdout="", stderr="some.cpp:3: error: expected ';'")
    monkeypatch.setattr(build.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(build.BuildError, match=r"some\.cpp:3"):
        build._run(["g++"])
