"""The sample files for run_classifier.py and run_ner.py hold what their tasks read."""

from data.labels import NUMBER, SEVERAL, SINGLE, Labels
from data.tables import read_table
from data.tagging import read_tagged, tag_names
from examples import sample_classifier, sample_ner


def test_reviews_have_one_label_several_and_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sample_classifier.py", "--output_dir", str(tmp_path), "--rows", "53"])
    sample_classifier.main()
    table = read_table(tmp_path / "train.csv")
    assert len(table) == 53
    assert Labels.of(table, "sentiment", SINGLE, "|").names == ("negative", "neutral", "positive")
    assert Labels.of(table, "topics", SEVERAL, "|").names == ("food", "price", "staff")
    stars = Labels.of(table, "stars", NUMBER, "|").encode(table)
    assert stars.min() < 1.5 and stars.max() == 5
    vocab = set((tmp_path / "vocab.txt").read_text().split())
    words = {word for text in table.columns["text"] for word in text.replace(",", " ,").replace(".", " .").split()}
    assert words <= vocab


def test_names_follow_iob2(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sample_ner.py", "--output_dir", str(tmp_path), "--rows", "53"])
    sample_ner.main()
    sentences = read_tagged(tmp_path / "train.conll")
    assert len(sentences) == 53 and sentences.scheme() == "iob2"
    assert tag_names([sentences]) == ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG", "B-PER", "I-PER")
    vocab = set((tmp_path / "vocab.txt").read_text().split())
    assert {word.lower() for words in sentences.tokens for word in words} <= vocab
