"""`prepare_data.py vocab`: trains a WordPiece vocabulary on text of any size, deterministically."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from configs.prepare import TextFlags, VocabConfig
from conversion.hub import local_directory
from conversion.tokenizer_files import (
    MAX_CHARACTERS_PER_WORD,
    SPECIAL_TOKENS,
    Vocabulary,
    find_vocabulary,
    read_vocabulary,
)
from data.preparation.inputs import open_input
from data.preparation.pieces import Result, run_pieces
from data.preparation.work_directory import discarded_on_mistake, finish
from data.records.dataset_json import DATASET_JSON
from data.text.documents import read_documents
from data.text.spans import Span, span_bytes
from data.tokenization import build_tokenizer
from utils.atomic_files import write_atomically
from utils.checkpoints import model_directory
from utils.errors import UserError
from utils.messages import warn

_PIECE_BYTES = 1 << 20
_COUNTED_BYTES, _TRAINED_BYTES = 1 << 10, 1 << 11  # maximum memory per word while counting and while training
_LONG_WORD = 30  # characters
_WORDS_AT_ONCE = 10_000


def make_vocab(config: VocabConfig) -> None:
    """Train a vocabulary, or copy that of the model directory that `--input_file` names.

    Raises:
        UserError: there is no usable input, the file cannot be written, or `--vocab_size` is too small.
    """
    target = Path(config.vocab_file)
    if target.is_dir():
        target = target / "vocab.txt"
    if target.name == "vocab.txt" and (target.parent / DATASET_JSON).exists():
        raise UserError(f"--vocab_file {target} belongs to the records in its directory: use another file.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        raise UserError(f"--vocab_file {target} cannot be written: {error.strerror}.") from None
    among = next((name for name in config.text.input_file if Path(name).resolve() in target.resolve().parents), None)
    if among:
        warn(
            f"--vocab_file {target} is inside --input_file {among}, so the next command would read it as text: move it."
        )
    if config.extend:
        extend_vocab(config, target)
        return
    model = model_directory(local_directory(config.text.input_file[0]))
    if len(config.text.input_file) == 1 and find_vocabulary(model):
        vocabulary = read_vocabulary(model).need_wordpiece()
        vocabulary.warn_of_contradictions(None)
        write_atomically(target, vocabulary.text)
        print(f"{vocabulary.size:,} entries of {vocabulary.path} in {target}")
        return
    words = count_words(config, target.with_name(f".{target.name}.work"))
    trained = dict(words.most_common((config.work.memory_mb << 20) // _TRAINED_BYTES))
    alphabet, left_out = _alphabet(trained, config.limit_alphabet)
    vocab = _train(trained, alphabet, config)
    write_atomically(target, "".join(f"{token}\n" for token in vocab).encode())
    print(_coverage(vocab, words))
    print(f"{len(vocab):,} entries in {target}")
    if left_out > 0.001:
        warn(
            f"--limit_alphabet {config.limit_alphabet} leaves out characters of {left_out:.1%} of the words, which "
            "become unknown: raise it."
        )
    elif len(vocab) < config.vocab_size:
        warn(f"the text is too small for --vocab_size {config.vocab_size}: use more text, or --min_frequency 1.")


def extend_vocab(config: VocabConfig, target: Path) -> None:
    """Writes the vocabulary of `--extend` with words of the text appended, so that existing ids do not change.

    WordPiece uses the longest entry that a word begins with. A new entry therefore also becomes the first piece of
    longer words that begin with it, unless the vocabulary has a longer entry for them.

    Raises:
        UserError: the model has no vocabulary, or there is no usable input.
    """
    old = read_vocabulary(model_directory(local_directory(str(config.extend)))).need_wordpiece()
    old.warn_of_contradictions(None)
    words = count_words(
        replace(config, do_lower_case=old.rules.do_lower_case), target.with_name(f".{target.name}.work")
    )
    added = frequent_pieces(words, old, config)
    write_atomically(target, old.text + "".join(f"{word}\n" for word in added).encode())
    for name, vocab in (("before", old.tokens), ("after", [*old.tokens, *added])):
        print(f"{name}: {_coverage(vocab, words)}")
    print(f"{len(old.tokens):,} entries of {old.path} and {len(added):,} new ones in {target}")
    if not added:
        warn("no word is frequent enough and splits into enough pieces: lower --min_frequency or --min_pieces.")


def frequent_pieces(words: Mapping[str, int], old: Vocabulary, config: VocabConfig) -> list[str]:
    """The words to add, starting with those that save the most tokens in the whole text."""
    tokenizer = build_tokenizer(old.ids, *old.rules)
    saved: dict[str, int] = {}
    for word, count in words.items():
        if count < config.min_frequency or len(word) > MAX_CHARACTERS_PER_WORD or not any(map(str.isalpha, word)):
            continue
        tokens = tokenizer.encode(word).tokens
        if len(tokens) >= config.min_pieces and "".join(tokens).replace("##", "") == word:
            saved[word] = count * (len(tokens) - 1)
    return sorted(saved, key=lambda word: (-saved[word], word))[: config.new_entries]


def _sample(pieces: Sequence[Sequence[Span]], config: VocabConfig) -> Sequence[Sequence[Span]]:
    """Random pieces of `--sample_mb` in all, each equally likely."""
    wanted = config.sample_mb << 20
    order = np.random.default_rng(config.random_seed).permutation(len(pieces))
    sizes = np.array(span_bytes(pieces))[order]
    taken = order[: int(np.searchsorted(np.cumsum(sizes), wanted)) + 1]
    return [pieces[number] for number in sorted(taken)]


def count_words(config: VocabConfig, directory: Path) -> Counter[str]:
    """How often each word occurs, after lower-casing and splitting at punctuation. If memory is short, the rarest words
    are dropped.

    Args:
        config: the flags.
        directory: for unfinished work; removed at the end, but kept if the command is interrupted.
    """
    plan = {"command": "vocab", "sample_mb": config.sample_mb, "random_seed": config.random_seed}
    plan |= {"do_lower_case": config.do_lower_case}
    flags = replace(config.work, overwrite_output_dir=True)
    try:
        opened = open_input(config.text, flags, directory, plan, piece_bytes=_PIECE_BYTES)
        assert opened is not None  # this directory never contains a finished result
        work, pieces = opened
        with discarded_on_mistake(work):
            sample = _sample(pieces, config)
            run_pieces(
                work, "count words", _count_piece, [(piece, config.text, config.do_lower_case) for piece in sample],
                flags=flags, sizes=span_bytes(sample), unit="B",
            )  # fmt: skip
            spaced = _merge((_words_file(work, number) for number in range(len(sample))), config.work.memory_mb)
            if not spaced:
                raise UserError(f"--input_file {' '.join(config.text.input_file)} contains no text.")
        finish(directory)
    finally:
        with suppress(OSError):
            directory.rmdir()
    words: Counter[str] = Counter()
    for word, count in spaced.items():
        for part in _split(word, config.do_lower_case):
            words[part] += count
    return words


def _split(word: str, do_lower_case: bool) -> Iterator[str]:
    """The parts of a word between spaces, after lower-casing and splitting at punctuation."""
    rules = _rules(do_lower_case)
    for part, _ in rules.pre_tokenizer.pre_tokenize_str(rules.normalizer.normalize_str(word)):
        yield part[: MAX_CHARACTERS_PER_WORD + 1]  # a longer word is unknown anyway


@lru_cache
def _rules(do_lower_case: bool) -> Tokenizer:
    return build_tokenizer({}, do_lower_case)


def _count_piece(work: Path, index: int, piece: Sequence[Span], text: TextFlags, do_lower_case: bool) -> Result:
    spaced: Counter[str] = Counter()
    for document in read_documents(piece, text):
        for sentence in document:
            spaced.update(sentence.split())
    # Splitting after counting is a hundred times less work. Long "words", such as a Chinese sentence, are split here,
    # because hardly any two are equal.
    for word in [word for word in spaced if len(word) > _LONG_WORD]:
        count = spaced.pop(word)
        for part in _split(word, do_lower_case):
            spaced[part] += count
    _words_file(work, index).write_text(json.dumps(spaced), encoding="utf-8")
    return {}


def _words_file(work: Path, number: int) -> Path:
    return work / f"words-{number:06d}"


def _merge(files: Iterable[Path], memory_mb: int) -> Counter[str]:
    """Sums the counts in files; whenever there are too many words, the rarer half is dropped."""
    most = (memory_mb << 20) // _COUNTED_BYTES
    words: Counter[str] = Counter()
    for file in files:
        words.update(json.loads(file.read_bytes()))
        if len(words) > most:
            words = Counter(dict(words.most_common(most // 2)))
    return words


def _alphabet(words: Mapping[str, int], limit: int) -> tuple[list[str], float]:
    """The most frequent characters, and the fraction of the words that contain other characters."""
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    alphabet = sorted(sorted(characters), key=characters.__getitem__, reverse=True)[:limit]
    known = set(alphabet)
    left_out = sum(count for word, count in words.items() if not known.issuperset(word))
    return alphabet, left_out / max(1, sum(words.values()))


def _train(words: Mapping[str, int], alphabet: list[str], config: VocabConfig) -> list[str]:
    """The vocabulary in the order of ids."""
    inner = set(chain.from_iterable(word[1:] for word in words))
    # The trainer numbers continuing characters in the order of a hash table, which differs between processes, and
    # breaks ties by these numbers. As special tokens they get fixed numbers, which makes the result deterministic.
    special = [*SPECIAL_TOKENS, *sorted("##" + character for character in alphabet if character in inner)]
    smallest = len(special) + len(alphabet)
    if config.vocab_size < smallest:
        raise UserError(
            f"--vocab_size {config.vocab_size} is less than the {smallest} characters and special tokens: raise it, or "
            "lower --limit_alphabet."
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=special,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    learner = Tokenizer(models.WordPiece({}, unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    learner.train_from_iterator(_repeated(words), trainer)
    ids = learner.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def _repeated(words: Mapping[str, int]) -> Iterator[str]:
    """Repeats each word by its count, because the trainer reads text, not counts."""
    for word in sorted(words):
        if len(word) <= MAX_CHARACTERS_PER_WORD:
            for start in range(0, words[word], 1000):
                yield " ".join([word] * min(1000, words[word] - start))


def _coverage(vocab: Sequence[str], words: Counter[str]) -> str:
    """A summary of how well the vocabulary fits the text."""
    tokenizer = build_tokenizer({token: index for index, token in enumerate(vocab)}, do_lower_case=False)
    unk = vocab.index("[UNK]")
    tokens = unknown = whole = 0
    items = iter(words.items())
    while some := dict(islice(items, _WORDS_AT_ONCE)):
        for count, encoding in zip(some.values(), tokenizer.encode_batch_fast(list(some)), strict=True):
            tokens += count * len(encoding.ids)
            unknown += count * (encoding.ids == [unk])
            whole += count * (len(encoding.ids) == 1 and encoding.ids != [unk])
    total = sum(words.values())
    size = sum(count * len(word.encode()) for word, count in words.items())
    return (
        f"{total:,} words seen: {whole / total:.1%} are one entry, {unknown / total:.3%} are unknown; "
        f"{tokens / total:.2f} tokens per word, {size / tokens:.2f} bytes per token"
    )
