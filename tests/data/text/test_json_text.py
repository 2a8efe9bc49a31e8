"""The text of one JSON object."""

import io

import pytest

from data.text import json_text


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('{"text": "a\\u00e9\\ud834\\udd1e\\\\\\n\\"b"}', 'aé𝄞\\\n"b'),
        ('{"n": -1.5e3, "t\\u0065xt" : "x"} ', "x"),
        ('{"text": ""}', ""),
        ('{"text": 3}', None),
        ('{"text": ["x"]}', None),
        ('{"other": "text"}', None),
        ('{"a": {"text": "x"}}', None),
        ('{"text": "x', None),
        ('{"text": "x"\n}', None),
        ("", None),
    ],
)
def test_the_text_of_one_json_object(line, value):
    sink = io.BytesIO()
    assert json_text.copy_json_text(io.BytesIO(line.encode()), "text", sink) == (value is not None)
    assert value is None or sink.getvalue().decode() == value
