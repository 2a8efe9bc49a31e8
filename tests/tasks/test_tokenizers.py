"""A model directory with tokenizer.json alone, whose text keeps its accents, in every command."""

import json
from pathlib import Path

import numpy as np
import pytest

from configs.cli import parse
from configs.glue import GlueConfig
from configs.model import BertConfig
from configs.prepare import PretrainingDataConfig, VocabConfig
from configs.pretraining import PretrainingConfig
from configs.squad import SquadConfig, SquadDataConfig
from conversion.tokenizer_files import SPECIAL_TOKENS, TOKENIZER_FILES, Rules, Vocabulary, read_vocabulary
from data.preparation import squad
from data.preparation.pretraining import prepare
from data.preparation.vocabulary import make_vocab
from data.sources import open_source
from inference import load
from modeling import BertForPreTraining, BertForQuestionAnswering
from modeling.pretrained import read_weights, write_weights
from tasks.glue import finetune_glue
from tasks.pretraining import pretrain
from tasks.squad import finetune_squad

WORDS = ["un", "año", "ano", "nuevo", "viejo", "está", "aquí", "qué", "?", "."]
KEPT = Rules(do_lower_case=True, strip_accents=False)
SHAPE = BertConfig(len(SPECIAL_TOKENS) + len(WORDS), 16, 1, 2, 24, max_position_embeddings=29)
TEXT = "Un AÑO nuevo está aquí."


@pytest.fixture
def model_dir(tmp_path):
    """What transformers saves: weights, tokenizer.json and tokenizer_config.json."""
    vocabulary = Vocabulary(Path("vocab.txt"), (*SPECIAL_TOKENS, *WORDS), KEPT)
    files = vocabulary.files(SHAPE.max_position_embeddings)
    kept = {name: files[name] for name in ("tokenizer.json", "tokenizer_config.json")}
    BertForPreTraining(SHAPE, seed=2).save_pretrained(tmp_path / "model", tokenizer=kept)
    return tmp_path / "model"


def ids(*words):
    return [len(SPECIAL_TOKENS) + WORDS.index(word) for word in words]


def check_saved(directory):
    """A save contains all files of the tokenizer, with the vocabulary and the rules it began with."""
    assert all((directory / name).is_file() for name in TOKENIZER_FILES)
    vocabulary = read_vocabulary(directory)
    assert (list(vocabulary.ids), vocabulary.rules) == ([*SPECIAL_TOKENS, *WORDS], KEPT)
    assert load(directory, mode="eager")._encoder.encode(TEXT).ids == ids("un", "año", "nuevo", "está", "aquí", ".")


def write_squad(path):
    context, answer = TEXT, "nuevo"
    answers = [{"text": answer, "answer_start": context.index(answer)}]
    qas = [{"id": "q", "question": "¿Qué está aquí?", "answers": answers}]
    path.write_text(json.dumps({"version": "1.1", "data": [{"paragraphs": [{"context": context, "qas": qas}]}]}))
    return path


def flags(config_class, *words):
    return parse(config_class, list(map(str, words)))


LENGTHS = ("--max_seq_length", 28, "--max_query_length", 9, "--doc_stride", 5)


def test_inference(model_dir):
    model = load(model_dir, mode="eager")
    assert model._encoder.encode(TEXT).ids == ids("un", "año", "nuevo", "está", "aquí", ".")
    assert model.fill_mask("un [MASK] nuevo")


def test_the_vocabulary_is_copied_as_vocab_txt(model_dir, tmp_path):
    make_vocab(flags(VocabConfig, "--model_name_or_path", model_dir, "--vocab_file", tmp_path / "v.txt"))
    assert (tmp_path / "v.txt").read_text().splitlines() == [*SPECIAL_TOKENS, *WORDS]


def test_pretraining_on_prepared_records(model_dir, tmp_path, capsys):
    (tmp_path / "text.txt").write_text(f"{TEXT}\n{TEXT}\n\n{TEXT}\nun ano viejo.\n\n" * 4)
    words = ["--input_file", tmp_path / "text.txt", "--vocab_file", model_dir, "--output_dir", tmp_path / "records"]
    words += ["--max_seq_length", 24, "--max_predictions_per_seq", 3, "--num_shards", 2, "--num_workers", 1]
    prepare(flags(PretrainingDataConfig, *words))
    assert "0.00% of the tokens are unknown" in capsys.readouterr().out
    assert read_vocabulary(tmp_path / "records").rules == KEPT
    records = open_source(tmp_path / "records")
    assert records.metadata["strip_accents"] is False
    batch = records.read(np.arange(len(records)))
    seen = {*batch["input_ids"].ravel().tolist(), *batch["masked_lm_ids"].ravel().tolist()}
    assert {*ids("año", "está", "aquí", "ano")} <= seen

    words = ["--ofrecord_path", tmp_path / "records", "--init_checkpoint", model_dir, "--max_steps", 1]
    words += ["--train_batch_size", 2, "--output_dir", tmp_path / "out", "--with-cuda", "False"]
    pretrain(flags(PretrainingConfig, *words), "eager")
    check_saved(tmp_path / "out" / "checkpoint-1")


def test_squad(model_dir, tmp_path, capsys):
    train = write_squad(tmp_path / "train.json")
    words = ["--input_file", train, "--output_dir", tmp_path / "features", "--vocab_file", model_dir, *LENGTHS]
    squad.prepare(flags(SquadDataConfig, *words, "--is_training", "--num_workers", 1))
    assert "of the tokens are unknown" in capsys.readouterr().out
    row = open_source(tmp_path / "features").read(np.arange(1))["input_ids"][0].tolist()
    assert row.count(ids("año")[0]) == 1 and ids("ano")[0] not in row
    assert read_vocabulary(tmp_path / "features").rules == KEPT

    words = ["--train_file", train, "--predict_file", train, "--init_checkpoint", model_dir, *LENGTHS, "--max_steps", 1]
    words += ["--do_train", "--do_eval", "--mode", "eager", "--with-cuda", "False", "--output_dir", tmp_path / "out"]
    finetune_squad(flags(SquadConfig, *words))
    check_saved(tmp_path / "out" / "checkpoint-1")
    words = ["--train_data_dir", tmp_path / "features", "--init_checkpoint", model_dir, *LENGTHS, "--max_steps", 1]
    words += ["--do_train", "--mode", "eager", "--with-cuda", "False", "--output_dir", tmp_path / "again"]
    finetune_squad(flags(SquadConfig, *words))


def test_glue(model_dir, tmp_path):
    (tmp_path / "RTE").mkdir()
    lines = ["index\tsentence1\tsentence2\tlabel", "0\tun año\tnuevo\tentailment", "1\tun ano\tviejo\tnot_entailment"]
    for name in ("train", "dev"):
        (tmp_path / "RTE" / f"{name}.tsv").write_text("\n".join(lines) + "\n")
    words = ["--task_name", "rte", "--data_dir", tmp_path, "--init_checkpoint", model_dir, "--max_seq_length", 12]
    words += ["--max_steps", 1, "--train_batch_size", 2, "--mode", "eager", "--with-cuda", "False"]
    finetune_glue(flags(GlueConfig, *words, "--output_dir", tmp_path / "out"))
    check_saved(tmp_path / "out" / "checkpoint-1")
    check_saved(tmp_path / "out" / "best")


def test_a_question_answering_model_without_a_pooler_is_evaluated(model_dir, tmp_path, capsys):
    """transformers saves none since 4.0, because no output of that model needs it."""
    BertForQuestionAnswering(SHAPE, seed=4).save_pretrained(model_dir)
    arrays = read_weights(model_dir / "model.safetensors")
    without = {name: array for name, array in arrays.items() if "pooler" not in name}
    assert len(without) == len(arrays) - 2
    questions = write_squad(tmp_path / "dev.json")
    scores = []
    for weights in (arrays, without):
        write_weights(model_dir / "model.safetensors", weights)
        words = ["--predict_file", questions, "--init_checkpoint", model_dir, *LENGTHS, "--do_eval", "--mode", "eager"]
        finetune_squad(flags(SquadConfig, *words, "--with-cuda", "False", "--output_dir", tmp_path / "out"))
        scores.append((tmp_path / "out" / "nbest_predictions.json").read_bytes())
    assert scores[0] == scores[1]
    assert "pooler" not in capsys.readouterr().err
