"""Byte-level tokenizers for tests, trained on a few sentences."""

import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = [
    "Anna lives in Paris, and Bob's house (1895) is in Bonn.",
    "The émigrés of Łódź moved to Paris in 1895.",
    "Where does Anna live? Who lives in Bonn?",
]
NAMES = {
    "roberta": ("<s>", "</s>", "<pad>", "<unk>", "<mask>"),
    "modernbert": ("[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"),
}


def byte_level_tokenizer(kind):
    """A tokenizer like RoBERTa's or ModernBERT's, as the `tokenizers` library has it."""
    cls, sep, *_ = names = NAMES[kind]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=list(names), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in (sep, cls)]
    if kind == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(*ids, trim_offsets=True, add_prefix_space=False)
    else:
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.post_processor = processors.TemplateProcessing(f"{cls} $A {sep}", f"{cls} $A {sep} $B {sep}", ids)
    return tokenizer


def write_tokenizer(directory, kind):
    """Writes the tokenizer's files to a directory, and returns the tokenizer."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level_tokenizer(kind)
    tokenizer.save(str(directory / "tokenizer.json"))
    keys = ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token")
    settings = dict(zip(keys, NAMES[kind], strict=True))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer
