"""Decoding against an independent implementation of Google's write_predictions in plain loops."""

import json
import math
import string

import numpy as np
import pytest

from benchmarks import google_squad_features as google
from benchmarks.google_tokenization import BasicTokenizer, FullTokenizer
from configs.squad import DecodingFlags, FeatureFlags
from data.squad import convert_examples_to_features, read_squad_examples
from data.tokenization import load_tokenizer, load_vocab
from evaluation.squad_decoding import decode_predictions, get_final_text
from utils.errors import UserError

S, STRIDE, QUERY = 29, 7, 5
WORDS = ["the", "cat", "was", "born", "in", "par", "steve", "smith", "1895"]
CONTEXTS = [
    'Steve Smith\'s cat was born in Paris\u202f(1895-1943).  Zebra,\tÉtienne\u00a0said: "No!" ½ ﬁne \u200b two\n end',
    "the cat",
    "",
    " ".join(f"in {n} the ΑΣ smith’s 漢字 İs" for n in range(9)),
]


@pytest.fixture
def files(tmp_path):
    """A small SQuAD 2.0 file and its vocabulary."""
    letters = string.ascii_lowercase + string.digits + string.punctuation + "ας漢é"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *("##" + c for c in letters), *WORDS]
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    paragraphs = [
        {
            "context": context,
            "qas": [
                {"id": f"q{i}-{j}", "question": "Who was born in 1895 ?"[: 6 + 5 * j], "answers": []} for j in range(3)
            ],
        }
        for i, context in enumerate(CONTEXTS)
    ]
    (tmp_path / "squad.json").write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}), encoding="utf-8")
    return str(tmp_path / "squad.json"), str(tmp_path / "vocab.txt")


def google_final_text(pred_text, orig_text, do_lower_case):
    def without_spaces(text):
        places = {}
        kept = []
        for i, char in enumerate(text):
            if char != " ":
                places[len(kept)] = i
                kept.append(char)
        return "".join(kept), places

    tok_text = " ".join(BasicTokenizer(do_lower_case).tokenize(orig_text))
    start = tok_text.find(pred_text)
    if start == -1:
        return orig_text
    end = start + len(pred_text) - 1
    orig_kept, orig_places = without_spaces(orig_text)
    tok_kept, tok_places = without_spaces(tok_text)
    if len(orig_kept) != len(tok_kept):
        return orig_text
    number_at = {place: number for number, place in tok_places.items()}
    if start not in number_at or end not in number_at:
        return orig_text
    return orig_text[orig_places[number_at[start]] : orig_places[number_at[end]] + 1]


def google_predictions(examples, features, start_logits, end_logits, flags, lower, v2):
    predictions, nbests, odds = {}, {}, {}
    for example_index, example in enumerate(examples):
        score_null, null_start, null_end = 1000000, 0, 0
        preliminary = []
        for feature in (f for f in features if f.example_index == example_index):
            starts = [float(x) for x in start_logits[feature.unique_id - 1000000000]]
            ends = [float(x) for x in end_logits[feature.unique_id - 1000000000]]
            best_starts = [i for i, _ in sorted(enumerate(starts), key=lambda x: x[1], reverse=True)]
            best_ends = [i for i, _ in sorted(enumerate(ends), key=lambda x: x[1], reverse=True)]
            if v2 and starts[0] + ends[0] < score_null:
                score_null, null_start, null_end = starts[0] + ends[0], starts[0], ends[0]
            for s in best_starts[: flags.n_best_size]:
                for e in best_ends[: flags.n_best_size]:
                    if s not in feature.token_to_orig_map or e not in feature.token_to_orig_map:
                        continue
                    if not feature.token_is_max_context[s] or e < s or e - s + 1 > flags.max_answer_length:
                        continue
                    preliminary.append((feature, s, e, starts[s], ends[e]))
        if v2:
            preliminary.append((None, 0, 0, null_start, null_end))
        nbest = []
        seen = set()
        for feature, s, e, start_logit, end_logit in sorted(preliminary, key=lambda p: p[3] + p[4], reverse=True):
            if len(nbest) >= flags.n_best_size:
                break
            text = ""
            if s > 0:
                words = example.doc_tokens[feature.token_to_orig_map[s] : feature.token_to_orig_map[e] + 1]
                pieces = " ".join(feature.tokens[s : e + 1]).replace(" ##", "").replace("##", "")
                text = google_final_text(" ".join(pieces.strip().split()), " ".join(words), lower)
                if text in seen:
                    continue
            seen.add(text)
            nbest.append((text, start_logit, end_logit))
        if v2 and "" not in seen:
            nbest.append(("", null_start, null_end))
        nbest = nbest or [("empty", 0.0, 0.0)]
        best = max(s + e for _, s, e in nbest)
        total = sum(math.exp(s + e - best) for _, s, e in nbest)
        nbests[example.qas_id] = [
            {"text": t, "probability": math.exp(s + e - best) / total, "start_logit": s, "end_logit": e}
            for t, s, e in nbest
        ]
        predictions[example.qas_id] = nbest[0][0]
        if v2:
            # Google's code fails if only "no answer" is left; here that is the answer.
            answer = next((n for n in nbest if n[0]), ("", 0.0, 0.0))
            odds[example.qas_id] = score_null - answer[1] - answer[2]
            unanswered = odds[example.qas_id] > flags.null_score_diff_threshold
            predictions[example.qas_id] = "" if unanswered else answer[0]
    return predictions, nbests, odds


def decode(files, flags, lower, v2, logits):
    squad, vocab = files
    settings = FeatureFlags(vocab, lower, S, STRIDE, QUERY, v2)
    examples = read_squad_examples(squad, is_training=False, version_2_with_negative=v2)
    features = list(convert_examples_to_features(examples, settings))
    start_logits, end_logits = logits(len(features))
    tokenizer = load_tokenizer(vocab, lower)
    mine = decode_predictions(
        examples, features, start_logits, end_logits, tokenizer, flags, version_2_with_negative=v2
    )
    google_features = list(
        google.convert(
            google.read_examples(squad, False, v2), FullTokenizer(load_vocab(vocab), lower), S, STRIDE, QUERY
        )
    )
    return mine, google_predictions(examples, google_features, start_logits, end_logits, flags, lower, v2)


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_answers_equal_googles(files, v2, lower, seed):
    rng = np.random.default_rng(seed)

    def logits(count):  # rounded, so that there are ties; a few are high
        scale = rng.choice([1, 6], (2, count, S), p=[0.8, 0.2])
        return np.round(rng.normal(size=(2, count, S)) * scale * 2) / 2

    flags = DecodingFlags([20, 3, 1, 7][seed], [30, 4, 11, 2][seed], [0.0, -2.5, 1.5, 4.0][seed])
    mine, (predictions, nbest, odds) = decode(files, flags, lower, v2, lambda n: logits(n).astype(np.float32))
    assert mine.predictions == predictions
    assert mine.nbest_predictions == nbest
    assert mine.null_odds == odds
    assert list(mine.predictions) == list(predictions)


def test_without_candidates_there_is_no_answer(files):
    def null_first(count):  # the best start and end of every window are at [CLS]
        logits = np.zeros((2, count, S), np.float32)
        logits[:, :, 0] = 3
        return logits

    mine, _ = decode(files, DecodingFlags(n_best_size=1), True, True, null_first)
    assert set(mine.predictions.values()) == {""}
    assert mine.null_odds["q0-0"] == 6.0
    mine, _ = decode(files, DecodingFlags(n_best_size=1), True, False, null_first)
    assert set(mine.predictions.values()) == {"empty"}
    assert mine.null_odds == {}


def test_logits_that_are_not_finite_are_refused(files):
    with pytest.raises(UserError, match="not finite"):
        decode(files, DecodingFlags(), True, True, lambda n: np.full((2, n, S), np.nan, np.float32))


@pytest.mark.parametrize(
    ("pred_text", "orig_text", "answer"),
    [
        ("steve smith", "Steve Smith's", "Steve Smith"),
        ("1895", "(1895-1943).", "1895"),
        ("etienne", "«Étienne»", "Étienne"),
        ("[UNK] smith", "Zoë Smith's", "Zoë Smith's"),  # not found: whole words
        ("said", "Étienne\u00a0said:", "Étienne\u00a0said:"),  # the tokenizer drops more than blanks: lengths differ
    ],
)
def test_predicted_text_is_mapped_to_original_text(files, pred_text, orig_text, answer):
    tok_text = " ".join(BasicTokenizer().tokenize(orig_text))
    assert get_final_text(pred_text, orig_text, tok_text)[0] == answer
    assert google_final_text(pred_text, orig_text, True) == answer


def test_predictions_are_written_to_files_with_googles_names(files, tmp_path):
    rng = np.random.default_rng(5)
    mine, _ = decode(files, DecodingFlags(), True, True, lambda n: rng.normal(size=(2, n, S)).astype(np.float32))
    mine.write(tmp_path / "out")
    for name, content in (
        ("predictions", mine.predictions),
        ("nbest_predictions", mine.nbest_predictions),
        ("null_odds", mine.null_odds),
    ):
        assert json.loads((tmp_path / "out" / f"{name}.json").read_text()) == content
