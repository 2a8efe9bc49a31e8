"""What messages show of text from files."""

from utils.errors import UserError, printable
from utils.messages import warn


def test_control_characters_are_escaped_in_every_message(capsys):
    assert printable("naïve 漢字\n\x1b[2J\x9b\u202e") == "naïve 漢字\n\\x1b[2J\\x9b\\u202e"
    assert str(UserError("a\x1b]0;b\x07.")) == r"a\x1b]0;b\x07."
    warn("a\x1b[31mb.")
    assert capsys.readouterr().err == "warning: a\\x1b[31mb.\n"
