"""The sample data set is valid RTE data that a model can learn."""

import numpy as np

from data.glue import GLUE_TASKS, read_examples, task_directory
from examples import sample_glue


def test_the_sample_is_valid_rte_data(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["sample_glue.py", "--output_dir", str(tmp_path), "--rows", "37"])
    sample_glue.main()
    task = GLUE_TASKS["rte"]
    directory = task_directory(tmp_path, task)
    train, dev, test = (read_examples(directory, task, name) for name in ("train", "dev", "test"))
    assert (len(train), len(dev), len(test)) == (37, 200, 50)
    assert test.labels is None and test.indices == [str(i) for i in range(50)]
    vocab = (tmp_path / "vocab.txt").read_text().split("\n")
    assert {word for column in (*train.texts, *test.texts) for text in column for word in text.split()} <= set(vocab)
    negated = np.array([" not " in sentence for sentence in dev.texts[1]])
    np.testing.assert_array_equal(np.array(task.labels)[dev.labels] == "not_entailment", negated)
    assert 0.3 < negated.mean() < 0.7
