"""The table of licences."""

from email.message import Message

import pytest

from utils.licences import licence, table


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ([("License-Expression", "MIT"), ("License", "other")], "MIT"),
        ([("Classifier", "License :: OSI Approved :: BSD License"), ("License", "x")], "BSD License"),
        ([("Classifier", "Topic :: Text"), ("License", "Apache 2.0\nAll of its text")], "Apache 2.0"),
        ([], "not given"),
    ],
)
def test_a_licence_is_named_by_the_most_exact_field(fields, name):
    message = Message()
    for key, value in fields:
        message[key] = value
    assert licence(message) == name


def test_every_pinned_package_has_a_row(tmp_path):
    (tmp_path / "a.txt").write_text("-r base.txt\npytest==1.0 \\\n    --hash=sha256:0\nno-such-package==7\n")
    rows = table([tmp_path / "a.txt"]).splitlines()
    assert rows[2] == "| no-such-package | not installed here |" and rows[3].startswith("| pytest | MIT")
