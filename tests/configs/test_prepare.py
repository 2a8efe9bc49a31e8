"""Flags of prepare_data.py: missing names, contradictions and limits."""

import pytest

from configs.cli import parse
from configs.prepare import CleanConfig, InspectConfig, PretrainingDataConfig, VerifyConfig, VocabConfig
from utils.errors import UserError

PRETRAINING = "--input_file x --output_dir y --vocab_file z "


@pytest.mark.parametrize(
    ("config_class", "flags", "message"),
    [
        (CleanConfig, "--input_file x", "--output_dir is missing"),
        (CleanConfig, "--output_dir x", "--input_file is missing"),
        (CleanConfig, "--input_file x --output_dir y --num_workers 100000", "--num_workers must be at most"),
        (VocabConfig, "--input_file x --vocab_file y --vocab_size 99", "--vocab_size must be at least 100"),
        (PretrainingDataConfig, PRETRAINING + "--packing chunks", "pass --objective none"),
        (PretrainingDataConfig, PRETRAINING + "--output_format tokens", "stores neither sentences nor masks"),
        (PretrainingDataConfig, PRETRAINING + "--max_seq_length 19", "must be at most --max_seq_length"),
        (PretrainingDataConfig, PRETRAINING + "--max_seq_length 65536", "--max_seq_length must be at most 65535"),
        (PretrainingDataConfig, PRETRAINING + "--masked_lm_prob 1.5", "--masked_lm_prob must be at most 1, not 1.5"),
        (PretrainingDataConfig, PRETRAINING + "--masked_lm_prob 0", "--masked_lm_prob must be above 0, not 0.0"),
        (CleanConfig, "--input_file x --output_dir y --language zz", "--language zz is not a language code of ISO 639"),
        (CleanConfig, "--input_file x --output_dir y --language german", "--language german is not a language code"),
        (PretrainingDataConfig, PRETRAINING + "--work_dir w", "is only used if --output_dir is a URL"),
        (PretrainingDataConfig, PRETRAINING + "--bin_size 16 --num_shards 7", "--num_shards 7 is less than the 8 bins"),
        (InspectConfig, "--input_dir x --num_samples -1", "--num_samples must be at least 0"),
        (VerifyConfig, "", "--input_dir is missing"),
    ],
)
def test_wrong_flags_are_named(config_class, flags, message):
    with pytest.raises(UserError, match=message):
        parse(config_class, flags.split())


@pytest.mark.parametrize("code", ["de", "ceb", "pt-BR", "zh_Hans"])
def test_codes_of_languages(code):
    assert parse(CleanConfig, ["--input_file", "x", "--output_dir", "y", "--language", code]).text.language == code


def test_more_workers_than_cores_are_allowed_on_a_ray_cluster():
    words = "--input_file x --output_dir y --runner ray --num_workers 100000".split()
    assert parse(CleanConfig, words).work.num_workers == 100000


def test_bins_cover_all_lengths():
    assert parse(PretrainingDataConfig, PRETRAINING.split()).bins == 1
    assert parse(PretrainingDataConfig, [*PRETRAINING.split(), "--bin_size", "37"]).bins == 4
