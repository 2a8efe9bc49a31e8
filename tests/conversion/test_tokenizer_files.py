"""Tokenizers as people have them: which files are read, which rules they give, and what a save writes."""

import json

import pytest
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer

from conversion import read_checkpoint, write_checkpoint
from conversion.tokenizer_files import SPECIAL_TOKENS, TOKENIZER_FILES, Rules, read_vocabulary
from data.tokenization import BulkTokenizer, load_tokenizer, load_vocab
from tests.conversion.samples import MODELS, model_directory
from utils.errors import UserError

ENGLISH = ["the", "cat", "##s", "sat", "un", "##aff", "##able", ".", "!"]
SPANISH = ["un", "año", "ano", "nuevo", "."]
HINDI = ["की", "कु", "नहीं", "##ें", "और", "."]
CHINESE = ["的", "一", "是", "人", "app", "##le", "。"]
GERMAN = ["Der", "Hund", "bellt", "Über", "##ung", "."]
TEXT = "The unaffable CATS sat! Año 的人 [MASK] cats."


def write_vocab(directory, words=ENGLISH, **settings):
    directory.mkdir(exist_ok=True)
    (directory / "vocab.txt").write_text("".join(f"{token}\n" for token in [*SPECIAL_TOKENS, *words]))
    if settings:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def write_tokenizer_json(directory, words=ENGLISH, **changes):
    """A tokenizer.json as the tokenizers library saves it, with `changes` to its content."""
    directory.mkdir(exist_ok=True)
    vocab = {token: index for index, token in enumerate([*SPECIAL_TOKENS, *words])}
    BertWordPieceTokenizer(vocab, lowercase=True).save(str(directory / "tokenizer.json"))
    content = json.loads((directory / "tokenizer.json").read_text())
    content["model"] |= changes.pop("model", {})
    (directory / "tokenizer.json").write_text(json.dumps(content | changes))
    return directory


def bert_normalizer(**changes):
    defaults = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}
    return {"type": "BertNormalizer", **defaults, **changes}


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_a_tokenizer_json_alone_is_a_vocabulary(tmp_path):
    directory = write_tokenizer_json(tmp_path / "m")
    assert load_vocab(directory) == load_vocab(directory / "tokenizer.json") == load_vocab(write_vocab(tmp_path / "v"))
    library = Tokenizer.from_file(str(directory / "tokenizer.json"))
    expected = library.encode(TEXT.replace("[MASK]", ""), add_special_tokens=False).ids
    assert load_tokenizer(directory).encode(TEXT.replace("[MASK]", "")).ids == expected


@pytest.mark.parametrize(
    ("normalizer", "rules"),
    [
        (bert_normalizer(), Rules(True, None, True)),
        (bert_normalizer(lowercase=False), Rules(False, None, True)),
        (bert_normalizer(strip_accents=False), Rules(True, False, True)),
        (bert_normalizer(handle_chinese_chars=False, strip_accents=True), Rules(True, True, False)),
        ({"type": "Sequence", "normalizers": [bert_normalizer(lowercase=False)]}, Rules(False, None, True)),
        ({"type": "Lowercase"}, Rules(True, False, False)),
        (
            {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}, {"type": "StripAccents"}]},
            Rules(True, True, False),
        ),
        (None, Rules(False, False, False)),
    ],
)
def test_the_normalizer_of_a_tokenizer_json_gives_the_rules(tmp_path, normalizer, rules):
    words = [*ENGLISH, *SPANISH[1:4], "Cats", "año", "的", "人", "的人"]
    directory = write_tokenizer_json(tmp_path / "m", list(dict.fromkeys(words)), normalizer=normalizer)
    assert read_vocabulary(directory).rules == rules
    expected = Tokenizer.from_file(str(directory / "tokenizer.json"))
    for text in ("The cats sat! Año 的人 nuevo", "AÑO ano Cats"):
        assert load_tokenizer(directory).encode(text).ids == expected.encode(text, add_special_tokens=False).ids


def test_tokenizer_config_wins_over_tokenizer_json(tmp_path):
    directory = write_tokenizer_json(tmp_path / "m", normalizer=bert_normalizer(strip_accents=False))
    settings = {"do_lower_case": False, "strip_accents": None, "never_split": None, "tokenize_chinese_chars": True}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    assert read_vocabulary(directory).rules == Rules(False, False, True)


@pytest.mark.parametrize(
    ("words", "settings", "text", "ids"),
    [
        (SPANISH, {"do_lower_case": True, "strip_accents": False}, "un Año nuevo", [5, 6, 8]),
        (SPANISH, {"do_lower_case": True}, "un Año nuevo", [5, 7, 8]),
        (SPANISH, {}, "un Año nuevo", [5, 6, 8]),  # its accents show that they were kept
        (["的", "人", "的人"], {"do_lower_case": True, "tokenize_chinese_chars": False}, "的人", [7]),
        (["的", "人", "的人"], {"do_lower_case": True}, "的人", [5, 6]),
        (HINDI, {"do_lower_case": False}, "की कु", [5, 6]),
        (HINDI, {}, "की कु", [5, 6]),
        (GERMAN, {}, "Der Hund", [5, 6]),
        (["한국", "서울", "."], {}, "한국 서울", [5, 6]),
    ],
)
def test_accents_capitals_and_chinese_are_kept_where_the_vocabulary_has_them(tmp_path, words, settings, text, ids):
    directory = write_vocab(tmp_path / "m", words, **settings)
    assert load_tokenizer(directory).encode(text).ids == ids
    vocabulary = read_vocabulary(directory)
    assert BulkTokenizer(vocabulary.ids, *vocabulary.rules).encode([text])[0].tolist() == ids


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"never_split": ["U.S."]}, "has a never_split list"),
        ({"never_split": "U.S."}, "has a never_split list"),
        ({"do_basic_tokenize": False}, "sets do_basic_tokenize to False"),
        ({"word_tokenizer_type": "mecab"}, "sets word_tokenizer_type to 'mecab'"),
        ({"do_lower_case": "yes"}, "do_lower_case must be true or false"),
        ({"strip_accents": 1}, "strip_accents must be true or false"),
    ],
)
def test_rules_that_are_not_supported_are_refused(tmp_path, settings, message):
    with pytest.raises(UserError, match=rf"tokenizer_config\.json:? {message}"):
        read_vocabulary(write_vocab(tmp_path / "m", **settings))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"type": "BPE"}}, "contains a BPE tokenizer"),
        ({"model": {"continuing_subword_prefix": "@@"}}, "continuing_subword_prefix '@@'"),
        ({"model": {"vocab": {}}}, "contains no vocabulary"),
        ({"model": {"vocab": {"[PAD]": -1}}}, "an id that is not a whole number"),
        ({"model": {"vocab": {"[PAD]": 1 << 60}}}, "an id that is not a whole number"),
        ({"model": {"vocab": {"[PAD]": "0"}}}, "an id that is not a whole number"),
        ({"model": {"vocab": {"[PAD]": 0}}, "added_tokens": None}, r"lacks \[UNK\]"),
        ({"normalizer": {"type": "NFKC"}}, "the normalizer NFKC"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "the pre-tokenizer Metaspace"),
        ({"added_tokens": [{"id": 99, "content": "covid", "special": False}]}, "adds the token 'covid'"),
        ({"added_tokens": 5}, "must be a list of tokens"),
        ({"normalizer": bert_normalizer(clean_text=False)}, "sets clean_text to False"),
    ],
)
def test_a_tokenizer_json_that_is_not_berts_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read_vocabulary(write_tokenizer_json(tmp_path / "m", **changes))


@pytest.mark.parametrize("content", ["", "[]", "[" * 90_000, '{"model": 3}', '{"model": {"vocab": []}}'])
def test_a_damaged_tokenizer_json_is_one_sentence(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json"):
        read_vocabulary(tmp_path)


# ---- casing ----------------------------------------------------------------------------------------------------------


def test_accented_letters_beside_the_plain_ones_do_not_make_a_vocabulary_accented(tmp_path):
    kana = [*ENGLISH, "バ", "ハ", "##ハ", "で", "て"]
    assert load_tokenizer(write_vocab(tmp_path / "m", kana)).encode("ババ").tokens == ["ハ", "##ハ"]
    assert load_tokenizer(write_vocab(tmp_path / "n", [*ENGLISH, "バ", "で"])).encode("バ").tokens == ["バ"]


@pytest.mark.parametrize(
    ("words", "settings", "flag", "warns"),
    [
        (ENGLISH, {}, None, ""),
        (ENGLISH, {}, True, ""),
        (ENGLISH, {}, False, "whose entries have no capitals"),
        (GERMAN, {}, True, "whose entries have capitals"),
        (GERMAN, {}, False, ""),
        (CHINESE, {"do_lower_case": False}, False, ""),
        (CHINESE, {"do_lower_case": False}, True, "tokenizer_config.json, which says False"),
        (HINDI, {}, True, "whose entries have accents"),
        (SPANISH, {}, True, "whose entries have accents"),
        (SPANISH, {"do_lower_case": True, "strip_accents": False}, True, ""),
        (HINDI, {}, False, ""),
    ],
)
def test_a_flag_wins_over_files_and_entries_with_one_warning(tmp_path, capsys, words, settings, flag, warns):
    vocabulary = read_vocabulary(write_vocab(tmp_path / "m", words, **settings), flag)
    vocabulary.warn_of_contradictions(flag)
    error = capsys.readouterr().err
    assert error.count("warning:") == bool(warns) and warns in error
    if flag is not None:
        assert vocabulary.rules.do_lower_case is flag


# ---- odd vocabularies ------------------------------------------------------------------------------------------------


def test_doubled_and_blank_entries_leave_the_ids_of_others_as_they_are(tmp_path, capsys):
    directory = write_vocab(tmp_path / "m", ["dup", "", "dup", "a", "", "b"])
    vocabulary = read_vocabulary(directory)
    assert (vocabulary.ids["dup"], vocabulary.ids["a"], vocabulary.ids["b"]) == (7, 8, 10)
    assert vocabulary.size == 11 > len(vocabulary.ids)
    vocabulary.warn_of_contradictions(None)
    assert "has 1 duplicate entries" in capsys.readouterr().err
    (directory / "vocab.txt").write_bytes((directory / "vocab.txt").read_bytes() + b"\n\n")
    assert read_vocabulary(directory).size == 11  # blank lines at the end are no entries


def test_only_line_feeds_end_a_line(tmp_path):
    directory = write_vocab(tmp_path / "m", ["a", "\u2028", "b", "\u3000", "\x85", "c"])
    assert load_tokenizer(directory).encode("a b c").ids == [5, 7, 10]
    windows = (directory / "vocab.txt").read_bytes().replace(b"\n", b"\r\n")
    (directory / "vocab.txt").write_bytes(b"\xef\xbb\xbf" + windows)
    assert load_tokenizer(directory).encode("a b c").ids == [5, 7, 10]


def test_a_byte_order_mark_changes_nothing(tmp_path):
    plain, marked = (write_tokenizer_json(tmp_path / name) for name in ("plain", "marked"))
    (plain / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    (marked / "tokenizer_config.json").write_text('{"do_lower_case": false}', encoding="utf-8-sig")
    (marked / "tokenizer.json").write_text((plain / "tokenizer.json").read_text(), encoding="utf-8-sig")
    found, expected = read_vocabulary(marked), read_vocabulary(plain)
    assert (found.ids, found.rules) == (expected.ids, expected.rules) and not found.rules.do_lower_case


# ---- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}, {"do_lower_case": True, "strip_accents": False}])
def test_what_is_written_gives_our_ids_in_the_tokenizers_library(tmp_path, settings):
    vocabulary = read_vocabulary(
        write_vocab(tmp_path / "m", dict.fromkeys([*ENGLISH, *SPANISH, "的", "人"]), **settings)
    )
    files = vocabulary.files(64)
    assert set(files) == set(TOKENIZER_FILES)
    (tmp_path / "out").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):  # what current transformers writes
        (tmp_path / "out" / name).write_bytes(files[name])
    library = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    back = read_vocabulary(tmp_path / "out")
    assert (back.ids, back.rules, back.text) == (vocabulary.ids, vocabulary.rules, vocabulary.text)
    for text in ("The unaffable CATS sat!", "un Año nuevo. 的人", "a\u200bcat\tsat", ""):
        ours = load_tokenizer(tmp_path / "m").encode(text).ids
        assert library.encode(text, add_special_tokens=False).ids == ours
        assert load_tokenizer(tmp_path / "out").encode(text).ids == ours
    pair = library.encode("the cat", "sat")
    assert pair.tokens == ["[CLS]", "the", "cat", "[SEP]", "sat", "[SEP]"] and pair.type_ids == [0, 0, 0, 0, 1, 1]
    assert library.encode("the [MASK]").ids == [2, 5, 4, 3]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", ["hf", "lazy", "oneflow"])
def test_a_conversion_keeps_the_tokenizer(tmp_path, name, target):
    write_checkpoint(read_checkpoint(model_directory(name)), tmp_path / "out", target)
    assert all((tmp_path / "out" / file).is_file() for file in TOKENIZER_FILES)
    (tmp_path / "out" / "vocab.txt").unlink()
    assert load_vocab(tmp_path / "out") == load_vocab(model_directory(name))
    write_checkpoint(read_checkpoint(tmp_path / "out", trust=True), tmp_path / "again", "hf")
    assert (tmp_path / "again" / "vocab.txt").read_bytes() == (model_directory(name) / "vocab.txt").read_bytes()


def test_a_conversion_copies_the_files_that_are_there(tmp_path, capsys):
    source = tmp_path / "m"
    write_checkpoint(read_checkpoint(model_directory("pretraining")), source)
    content = {"do_lower_case": False, "model_max_length": 41, "tokenizer_class": "BertTokenizerFast"}
    (source / "tokenizer_config.json").write_text(json.dumps(content))
    write_checkpoint(read_checkpoint(source), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text()) == content
    (source / "tokenizer_config.json").write_text('{"never_split": ["U.S."]}')
    capsys.readouterr()
    write_checkpoint(read_checkpoint(source), tmp_path / "copied")
    assert "never_split" in capsys.readouterr().err
    assert (tmp_path / "copied" / "tokenizer_config.json").read_text() == '{"never_split": ["U.S."]}'


def test_a_conversion_without_a_vocabulary_says_so(tmp_path, capsys):
    source = tmp_path / "m"
    write_checkpoint(read_checkpoint(model_directory("pretraining")), source)
    for name in TOKENIZER_FILES:
        (source / name).unlink()
    capsys.readouterr()
    write_checkpoint(read_checkpoint(source), tmp_path / "out")
    assert "has no vocabulary, so the output has none" in capsys.readouterr().err
    write_checkpoint(read_checkpoint(source), tmp_path / "named", vocab_file=model_directory("pretraining"))
    assert all((tmp_path / "named" / file).is_file() for file in TOKENIZER_FILES)
