"""CSV, TSV and JSON lines with odd rows; what is refused names file and row."""

import csv
import gzip
import io
import json

import pytest

from data.tables import check_columns, read_table
from utils.errors import UserError


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


ODD = ['a, "quoted" text', "two\nlines", "", " spaces ", "tab\there", "é\u2028\u0085", '"', "a\r\nb"]


@pytest.mark.parametrize("delimiter", [",", ";", "|", "tab", "\t"])
def test_csv_reads_what_pythons_csv_module_writes(tmp_path, delimiter):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter="\t" if delimiter == "tab" else delimiter)
    writer.writerows([["text", "n"], *([text, str(n)] for n, text in enumerate(ODD))])
    table = read_table(write(tmp_path / "a.csv", "\ufeff" + file.getvalue()), delimiter=delimiter)
    assert table.columns == {"text": ODD, "n": [str(n) for n in range(len(ODD))]}
    assert table.lines == (2, 3, 5, 6, 7, 8, 9, 10)
    assert table.location(2).endswith("a.csv row 3 (line 5)")


def test_gzip_and_a_file_without_header(tmp_path):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"x,1\ny,2\n"))
    assert read_table(tmp_path / "a.csv.gz", header=False).columns == {"1": ["x", "y"], "2": ["1", "2"]}
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"x,1\ny,2\n" * 1000)[:-9])
    with pytest.raises(UserError, match=r"b\.csv\.gz is not a complete gzip file"):
        read_table(tmp_path / "b.csv.gz")


def test_a_semicolon_is_found_and_said(tmp_path, capsys):
    assert read_table(write(tmp_path / "a.csv", "text;label\na, b;1\n")).columns == {"text": ["a, b"], "label": ["1"]}
    assert "';' is used as the delimiter" in capsys.readouterr().err


def test_quotes_in_tsv_are_text_unless_all_fields_with_quotes_are_quoted(tmp_path):
    raw = read_table(write(tmp_path / "a.tsv", 'text\tlabel\n"he said\tx\nshe\'s "in"\ty\n'))
    assert raw.columns["text"] == ['"he said', 'she\'s "in"']
    quoted = read_table(write(tmp_path / "b.tsv", 'text\tlabel\n"a ""b""\tc"\tx\nplain\ty\n'))
    assert quoted.columns["text"] == ['a "b"\tc', "plain"]


def test_json_lines(tmp_path):
    rows = [{"text": "a\nb", "labels": ["x", "y"]}, {"labels": [], "text": "c"}]
    table = read_table(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n"))
    assert table.columns == {"text": ["a\nb", "c"], "labels": [["x", "y"], []]} and table.lines == (1, 2)
    assert table.take([1]).columns["text"] == ["c"] and len(table.first(1)) == 1
    assert table.take([1]).first(1).location(0).endswith("a.jsonl row 2 (line 2)")
    emoji = read_table(write(tmp_path / "b.jsonl", json.dumps({"text": "\U0001f600"})))
    assert emoji.columns == {"text": ["\U0001f600"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "text,label\na,b\nc\n", r"a\.csv row 2 \(line 3\) has 1 fields, not 2"),
        ("a.csv", 'text,label\n"a\nb",x\nc,d,e\n', r"row 2 \(line 4\) has 3 fields, not 2"),
        ("a.csv", 'text,label\n"a,b\n', r"row 1 \(line 2\) is not CSV: a quote is not closed"),
        ("a.csv", 'text,label\n"a" b,c\n', r"row 1 \(line 2\) is not CSV"),
        ("a.csv", "text,label\n", "contains no rows"),
        ("a.csv", "", "is empty"),
        ("a.csv", "text,text\na,b\n", "has the column 'text' twice"),
        ("a.jsonl", '{"text": "a"}\n{"text": \n', r"row 2 \(line 2\) is not JSON"),
        ("a.json", '[\n{"text": "a"}\n]\n', r"a\.json is a JSON array, not JSON lines"),
        ("a.jsonl", '{"text": "a\\ud83d"}\n', r"row 1 \(line 1\) has half of a character"),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', r"row 2 \(line 2\) is not a JSON object"),
        ("a.jsonl", '{"text": "a"}\n{"txt": "a"}\n', r"row 2 \(line 2\).*'text', 'txt' is in only one"),
    ],
)
def test_damaged_files(tmp_path, name, content, message):
    with pytest.raises(UserError, match=message):
        read_table(write(tmp_path / name, content))


def test_other_encodings_are_named_with_their_line(tmp_path):
    with pytest.raises(UserError, match=r"line 3 is not UTF-8 text \(byte 0xe9\)"):
        read_table(write(tmp_path / "a.csv", "text,label\nb,c\né,d\n", "latin-1"))
    with pytest.raises(UserError, match="is UTF-16 text"):
        read_table(write(tmp_path / "a.csv", "text,label\nb,c\n", "utf-16"))
    with pytest.raises(UserError, match=r"a\.csv line 1 has a NUL character, as UTF-16 text does"):
        read_table(write(tmp_path / "a.csv", "text,label\nb,c\n", "utf-16-le"))


def test_missing_columns_name_the_nearest(tmp_path):
    table = read_table(write(tmp_path / "a.csv", "texts,label\na,b\n"))
    with pytest.raises(UserError, match=r"no column 'text' .from --text_column.: did you mean 'texts'\?"):
        table.column("text", "--text_column")
    with pytest.raises(UserError, match="its columns are 'texts', 'label'"):
        table.column("other", "--text_column")
    other = read_table(write(tmp_path / "b.csv", "text,label\na,b\n"))
    with pytest.raises(UserError, match=r"b\.csv row 1 has no column 'texts', which .*a\.csv has"):
        check_columns([table, other], ["texts"])


def test_missing_files_and_delimiters(tmp_path):
    with pytest.raises(UserError, match=r"no\.csv cannot be read"):
        read_table(tmp_path / "no.csv")
    with pytest.raises(UserError, match="--delimiter '::' must be one character"):
        read_table(write(tmp_path / "a.csv", "a,b\nc,d\n"), delimiter="::")
