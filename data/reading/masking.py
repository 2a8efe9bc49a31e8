"""Draws masked-LM predictions for many records at once: Google's `create_masked_lm_predictions`.

Shapes: `R` records, `S` sequence, `P` predictions, `V` vocabulary.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from data.records.features import padding


@dataclass(frozen=True)
class Masking:
    """The settings of masking, with the required properties of the vocabulary."""

    max_predictions_per_seq: int
    masked_lm_prob: float
    mask_id: int
    vocab_size: int
    # bool [V]: which pieces begin with ##; with marked ids also those from V to 2*V, which continue a word. None masks
    # single pieces.
    continues_word: np.ndarray | None = None

    @classmethod
    def of_vocab(
        cls,
        vocab: Mapping[str, int],
        *,
        max_predictions_per_seq: int,
        masked_lm_prob: float,
        whole_words: bool,
        marked: bool = False,
    ) -> "Masking":
        """The masking for a vocabulary.

        Args:
            vocab: {token: id}.
            max_predictions_per_seq, masked_lm_prob: how many tokens of a record are predicted at most, and which share.
            whole_words: whether all pieces of a word are masked together.
            marked: whether V is added to the ids of tokens that continue a word, in addition to ## pieces.
        """
        size = max(vocab.values()) + 1
        continues = None
        if whole_words:
            continues = np.zeros(size, bool)
            continues[[index for token, index in vocab.items() if token.startswith("##")]] = True
            if marked:
                continues = np.concatenate([continues, np.ones(size, bool)])
        return cls(max_predictions_per_seq, masked_lm_prob, vocab["[MASK]"], size, continues)


def mask_tokens(
    rng: np.random.Generator, input_ids: np.ndarray, candidates: np.ndarray, lengths: np.ndarray, masking: Masking
) -> dict[str, np.ndarray]:
    """Draw the masks of R records.

    At most `min(P, max(1, round(length · prob)))` tokens of a record are predicted: words are taken in random order
    as long as they fit. 80 % of the tokens become [MASK], 10 % are kept, 10 % become a random token of the vocabulary.

    Args:
        rng: the source of every random choice.
        input_ids: int [R, S], not changed; marked, if the settings say so.
        candidates: bool [R, S], tokens that may be masked: neither special tokens nor padding.
        lengths: int [R], the number of tokens of each record, special tokens included.
        masking: the settings.

    Returns:
        input_ids int32 [R, S] with masks, masked_lm_positions and masked_lm_ids int32 [R, P] in the order of positions,
        masked_lm_weights float32 [R, P]: 1 for a prediction, 0 for padding.
    """
    input_ids = input_ids.astype(np.int32)
    wanted = np.rint(lengths * masking.masked_lm_prob).astype(np.int64)  # half to even, as Python's round()
    wanted = np.minimum(np.maximum(wanted, 1), masking.max_predictions_per_seq)
    rows, columns = choose_words(
        lambda shape: rng.integers(0, 1 << 32, shape, np.uint32), input_ids, candidates, wanted, masking.continues_word
    )
    fate = rng.random(len(rows))
    random_tokens = rng.integers(0, masking.vocab_size, len(rows), dtype=np.int32)
    if masking.continues_word is not None and len(masking.continues_word) > masking.vocab_size:
        input_ids %= masking.vocab_size
    return put_masks(input_ids, rows, columns, fate, random_tokens, masking)


def put_masks(
    input_ids: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    fate: np.ndarray,
    random_tokens: np.ndarray,
    masking: Masking,
) -> dict[str, np.ndarray]:
    """The result of `mask_tokens` for M chosen tokens.

    Args:
        input_ids: int32 [R, S], changed in place.
        rows, columns: int [M], the tokens to predict, by row, then by column.
        fate: float [M] in [0, 1): below 0.8 a token becomes [MASK], below 0.9 it is kept, else it becomes random.
        random_tokens: int32 [M], the random replacement of each.
        masking: the settings.
    """
    records, length = input_ids.shape
    flat = rows * length + columns
    answers = input_ids.take(flat)
    input_ids.put(flat, np.where(fate < 0.8, masking.mask_id, np.where(fate < 0.9, answers, random_tokens)))

    predictions = masking.max_predictions_per_seq
    counts = np.bincount(rows, minlength=records)
    # A prediction's index in [R, P] is its number plus the unused entries of all earlier rows.
    flat = np.arange(len(rows)) + np.repeat(predictions * np.arange(records) - np.cumsum(counts) + counts, counts)
    result = {"input_ids": input_ids}
    for name, values in (("positions", columns), ("ids", answers), ("weights", np.ones(len(rows), np.float32))):
        padded = padding(f"masked_lm_{name}", records, predictions)
        padded.put(flat, values)
        result[f"masked_lm_{name}"] = padded
    return result


def choose_words(
    draw: Callable[[tuple[int, ...]], np.ndarray],
    input_ids: np.ndarray,
    candidates: np.ndarray,
    wanted: np.ndarray,
    continues_word: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, int [M], of the tokens to predict, sorted; at most `wanted` [R] of each row.

    `draw` returns random numbers of a shape [R, S], uint32 or uint64.
    """
    records, length = input_ids.shape
    if continues_word is None:
        first = _random_order(draw, candidates, int(wanted.max(initial=0)))
        counts = np.minimum(wanted, np.count_nonzero(candidates, 1))
        taken = np.arange(first.shape[1]) < counts[:, None]
        columns = np.where(taken, first, length).astype(np.min_scalar_type(length))
        columns.sort(axis=1)  # unused entries stay last
        return np.repeat(np.arange(records), counts), columns[taken]
    word = word_numbers(input_ids, candidates, continues_word)
    flat = word + np.arange(records)[:, None] * length
    size = np.bincount(flat[candidates], minlength=records * length).reshape(records, length)  # tokens [R, words]
    order = _random_order(draw, size > 0)
    taken = np.zeros((records, length), bool)  # by word
    count = np.zeros(records, np.int64)
    open_rows = np.arange(records)
    for turn in range(length):
        open_rows = open_rows[count[open_rows] < wanted[open_rows]]
        if not len(open_rows):
            break
        words = order[open_rows, turn]
        sizes = size[open_rows, words]
        fits = (sizes > 0) & (count[open_rows] + sizes <= wanted[open_rows])
        taken[open_rows, words] = fits
        count[open_rows] += np.where(fits, sizes, 0)
    chosen = np.take_along_axis(taken, word, 1) & candidates
    rows, columns = np.divmod(np.flatnonzero(chosen), length)  # several times faster than nonzero
    return rows, columns


def word_numbers(input_ids: np.ndarray, candidates: np.ndarray, continues_word: np.ndarray | None) -> np.ndarray:
    """int [R, S]: the number of each candidate's word in its row; without `continues_word`, each token is a word.

    As in Google's code, a ## piece joins the last word even across a [SEP].
    """
    begins = candidates if continues_word is None else candidates & ~continues_word[input_ids]
    begins = begins | (candidates & (np.cumsum(candidates, 1) == 1))
    return np.maximum(np.cumsum(begins, 1) - 1, 0)


def _random_order(
    draw: Callable[[tuple[int, ...]], np.ndarray], among: np.ndarray, most: int | None = None
) -> np.ndarray:
    """int64 [R, most]: the columns where `among` [R, S] is True, in random order, followed by the others.

    The low bits of each random number store its column, because sorting is several times faster than argsort.
    """
    numbers = draw(among.shape)
    kind, bits = numbers.dtype.type, (among.shape[1] - 1).bit_length()
    numbers >>= kind(bits + 1)
    numbers <<= kind(bits)
    numbers |= np.arange(among.shape[1], dtype=kind)
    numbers |= ~among * kind(1 << (8 * numbers.itemsize - 1))
    numbers.sort(axis=1)
    return (numbers[:, :most] & kind((1 << bits) - 1)).astype(np.int64)
