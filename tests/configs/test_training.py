"""Training commands of other BERT systems work here, or name the flag to use instead; impossible values are refused."""

import pytest

from configs.cli import parse
from configs.convert import ConvertConfig
from configs.glue import GlueConfig
from configs.infer import InferConfig
from configs.prepare import PretrainingDataConfig, VocabConfig
from configs.pretraining import EagerPretrainingConfig, PretrainingConfig
from configs.squad import SquadConfig
from configs.training import RETIRED, OptimizerFlags
from utils.errors import UserError

FLAX_GLUE = "--config=configs/classifier.py:bert-base-uncased --config.dataset_name=cola"
FLAX_GLUE_APART = (
    "--config=configs/classifier.py --config.tokenizer=bert-base-uncased --config.init_checkpoint=/path/to/model/dir"
)
FLAX_PRETRAINING = (
    "--config=configs/pretraining.py:bert-base-uncased --config.init_checkpoint= --config.train_batch_size=1024 "
    "--config.learning_rate=0.0017677669529663688"
)
STEP_BY_STEP_VOCAB = "--model_name_or_path bert-base-uncased --vocab_file data/vocab.txt"
STEP_BY_STEP_DATA = (
    "--input_file=data/train.txt --output_file=data/train_128.json --vocab_file=data/vocab.txt --do_lower_case=True "
    "--do_whole_word_mask=True --max_seq_length=128 --max_predictions_per_seq=20 --masked_lm_prob=0.15 "
    "--random_seed=12345 --dupe_factor=5"
)
STEP_BY_STEP_TRAINING = (
    "--model_name_or_path=bert-base-uncased --train_file data/train_128.json --validation_file=data/dev_128.json "
    "--datasets_cache_dir=data/cache --do_train=True --do_eval=True --evaluation_strategy=steps --eval_steps=5000 "
    "--per_device_train_batch_size=96 --per_device_eval_batch_size=192 --gradient_accumulation_steps=2 "
    "--eval_accumulation_steps=24 --learning_rate=5e-5 --weight_decay=0.01 --max_steps=90000 "
    "--lr_scheduler_type=linear --warmup_steps=900 --logging_first_step=True --save_strategy=steps --save_steps=5000 "
    "--dataloader_drop_last=True --remove_unused_columns=False --label_names labels next_sentence_label "
    "--logging_dir=runs --dataloader_num_workers=2 --output_dir=data/models/checkpoints_128"
)
STEP_BY_STEP_EVALUATION = (
    "--model_name_or_path=data/models/checkpoints_512/checkpoint-10000 --validation_file=data/test_512.json "
    "--datasets_cache_dir=data/cache --do_train=False --do_eval=True --per_device_eval_batch_size=48 "
    "--eval_accumulation_steps=24 --dataloader_drop_last=False --remove_unused_columns=False --label_names labels "
    "--logging_dir=runs_eval --dataloader_num_workers=2 --eval_only_mlm=True --overwrite_cache=True "
    "--overwrite_output_dir=True --output_dir=temp"
)
AWS_LAUNCHER = (
    "--source_dir=. --entry_point=albert/run_pretraining.py --sm_job_name=bert-pretrain-phase1 "
    "--instance_type=ml.p3dn.24xlarge --instance_count=8 "
)
AWS_PHASE_1 = AWS_LAUNCHER + (
    "--load_from=scratch --model_type=bert --model_size=base --per_gpu_batch_size=128 --max_seq_length=128 "
    "--max_predictions_per_seq=20 --optimizer=lamb --learning_rate=0.005 --end_learning_rate=0.0003 "
    "--hidden_dropout_prob=0.1 --attention_probs_dropout_prob=0.1 --gradient_accumulation_steps=4 "
    "--learning_rate_decay_power=0.5 --warmup_steps=2812 --total_steps=14064 --log_frequency=100 --squad_frequency=0 "
    "--run_name=bertphase1 --name=mybertphase1"
)
AWS_PHASE_2 = AWS_LAUNCHER + (
    "--load_from=checkpoint --load_optimizer_state=false --model_type=bert --model_size=base --per_gpu_batch_size=32 "
    "--max_seq_length=512 --max_predictions_per_seq=80 --optimizer=lamb --learning_rate=0.004 "
    "--end_learning_rate=0.0003 --gradient_accumulation_steps=4 --learning_rate_decay_power=0.5 --warmup_steps=625 "
    "--total_steps=6248 --log_frequency=100 --squad_frequency=0 --run_name=bertphase2 "
    "--checkpoint_path=checkpoints/albert/bertphase1-step14064 --name=mybertphase2"
)
AWS_SQUAD = AWS_LAUNCHER + (
    "--load_from=checkpoint --checkpoint_path=checkpoints/albert/bertphase2-step6248 --model_type=bert "
    "--per_gpu_batch_size=6 --model_size=base --squad_version={version} --learning_rate=10.0e-5 --warmup_steps=814 "
    "--total_steps=8144 --validation_frequency=10000 --evaluate_frequency=100000 --skip_xla=true"
)


def read(config_class, command, *more):
    return parse(config_class, [*command.split(), *more], retired=RETIRED)


HUGGING_FACE = (
    "--model_name_or_path MODEL --num_train_epochs 2.5 --warmup_ratio 0.06 --save_total_limit 2 --fp16 "
    "--report_to none --per_device_train_batch_size 3"
)


@pytest.mark.parametrize(
    ("config_class", "more"),
    [
        (PretrainingConfig, ""),
        (GlueConfig, "--task_name rte --data_dir x"),
        (SquadConfig, "--do_train --train_file train.json"),
    ],
)
def test_hugging_face_names(config_class, more):
    config = read(config_class, f"{HUGGING_FACE} {more}")
    assert (config.model.init_checkpoint, config.run.epochs, config.run.keep_last) == ("MODEL", 2.5, 2)
    assert (config.optimizer.warmup_proportion, config.device.use_fp16) == (0.06, True)
    assert (config.batch.train_batch_size, config.run.report_to) == (3, "none")
    with pytest.raises(UserError, match="--report_to: invalid choice: 'comet_ml'"):
        read(config_class, f"--report_to comet_ml {more}")


def test_models_are_named_alike_everywhere():
    assert read(InferConfig, "--model_name_or_path M").model.model_path == "M"
    assert read(ConvertConfig, "--model_name_or_path M --output x").input == "M"


@pytest.mark.parametrize("more", ["--task_name rte --data_dir x", "--do_train --train_file train.json"])
def test_batch_size_means_the_training_batch_in_fine_tuning(more):
    config_class = GlueConfig if "rte" in more else SquadConfig
    assert read(config_class, f"--batch_size 7 {more}").batch.train_rows(2) == 7


def test_flax_fine_tuning(capsys):
    assert read(GlueConfig, FLAX_GLUE, "--data_dir", "glue").data.tasks == ("cola",)
    assert "--init_checkpoint bert-base-uncased" in capsys.readouterr().err
    apart = read(GlueConfig, FLAX_GLUE_APART, "--task_name", "rte", "--data_dir", "glue")
    assert (apart.data.vocab_file, apart.model.init_checkpoint) == ("bert-base-uncased", "/path/to/model/dir")


def test_flax_pretraining():
    config = read(PretrainingConfig, FLAX_PRETRAINING)
    assert not config.model.init_checkpoint
    assert (config.batch.train_batch_size, config.optimizer.lr) == (1024, 0.0017677669529663688)


def test_step_by_step_preparation():
    assert read(VocabConfig, STEP_BY_STEP_VOCAB).text.input_file == ("bert-base-uncased",)
    config = read(PretrainingDataConfig, STEP_BY_STEP_DATA)
    assert (config.output_dir, config.example.do_whole_word_mask) == ("data/train_128.json", True)


def test_step_by_step_training_and_evaluation(capsys):
    config = read(PretrainingConfig, STEP_BY_STEP_TRAINING)
    assert config.model.init_checkpoint == "bert-base-uncased"
    data = config.data
    assert (data.ofrecord_path, data.val_ofrecord_path) == (("data/train_128.json",), ("data/dev_128.json",))
    assert (config.batch.train_batch_size, config.batch.val_batch_size, config.batch.grad_acc_steps) == (96, 192, 2)
    assert (config.run.eval_every_n_iters, config.run.model_save_every_n_iter) == (5000, 5000)
    assert (config.optimizer.schedule, config.optimizer.warmup_steps, config.run.max_steps) == ("linear", 900, 90000)
    assert "--eval_every_n_iters" in capsys.readouterr().err
    evaluation = read(PretrainingConfig, STEP_BY_STEP_EVALUATION)
    assert evaluation.data.eval_only_mlm and not evaluation.run.do_train


def test_two_phases(capsys):
    first = read(PretrainingConfig, AWS_PHASE_1)
    assert (first.optimizer.optim_name, first.optimizer.schedule, first.run.max_steps) == ("lamb", "polynomial", 14064)
    assert (first.batch.train_batch_size, first.batch.grad_acc_steps, first.run.run_name) == (128, 4, "bertphase1")
    second = read(PretrainingConfig, AWS_PHASE_2)
    assert (second.run.load_from, second.run.load_optimizer_state) == ("checkpoint", False)
    assert second.run.checkpoint_path == "checkpoints/albert/bertphase1-step14064"
    assert "oneflow.distributed.launch" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["squadv1", "squadv2"])
def test_squad_after_two_phases(capsys, version):
    config = read(SquadConfig, AWS_SQUAD.format(version=version), "--do_train", "--train_file", "train.json")
    assert (config.batch.train_batch_size, config.optimizer.lr, config.run.max_steps) == (6, 1e-4, 8144)
    assert config.features.version_2_with_negative == (version == "squadv2")
    assert "squad_version" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--load_from checkpoint", "--checkpoint_path"),
        ("--load_optimizer_state true", "--load_from checkpoint"),
        ("--skip_nsp --skip_mlm", "nothing to train"),
        ("--resume --overwrite_output_dir", "--resume continues the run that --overwrite_output_dir deletes"),
        ("--with_cuda True --device cpu", "--with_cuda True contradicts --device cpu"),
        ("--lr_schedule cosine --lr_decay_power 2", "--lr_decay_power"),
        ("--lr_first_step 2", "--lr_first_step"),
        ("--onecycle_pct_final 1", "--onecycle_pct_final"),
        (
            "--packing best_fit --padding longest",
            "--packing best_fit needs --padding none, but found --padding longest",
        ),
        ("--packing best_fit --masking dynamic --masked_lm_prob_end 0.1", "--masked_lm_prob_end depends on"),
    ],
)
def test_contradictions_name_the_flag(command, message):
    with pytest.raises(UserError, match=message):
        read(PretrainingConfig, command)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize("name", ["lr", "weight_decay", "adam_epsilon", "max_grad_norm", "end_learning_rate",
                                  "lr_decay_power", "epochs", "warmup_proportion", "clip_value"])  # fmt: skip
def test_numbers_must_be_finite(name, value, tmp_path):
    with pytest.raises(UserError, match=f"^--{name}: '{value}' is not a finite number"):
        read(PretrainingConfig, f"--{name}={value}")
    file = tmp_path / "run.json"
    file.write_text(f'{{"{name}": "{value}"}}')
    with pytest.raises(UserError, match=f"{name}: '.*' is not a finite number"):
        read(PretrainingConfig, f"--config {file}")


@pytest.mark.parametrize("value", [10**10, 10**20])
@pytest.mark.parametrize("name", ["train_batch_size", "val_batch_size", "train_global_batch_size", "grad_acc_steps",
                                  "num_threads", "max_steps", "warmup_steps", "seq_length"])  # fmt: skip
def test_huge_numbers_are_refused(name, value):
    with pytest.raises(UserError, match=rf"^--{name}:? "):
        read(PretrainingConfig, f"--{name} {value}")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--seed 100000000000000000000", "--seed: '100000000000000000000' is too large"),
        ("--seed -1", "--seed must be at least 0"),
        ("--adam_epsilon 0", "--adam_epsilon must be above 0"),
        ("--num_threads 100000", "--num_threads must be at most"),
        ("--tensor_parallel 0", "--tensor_parallel must be at least 1"),
        ("--pipeline_parallel 2", "--pipeline_parallel 2 is not supported"),
        ("--zero", "--zero is not supported"),
        ("--max_steps 1000000000", "--max_steps must be at most 10000000"),
        ("--train_batch_size 1000000", "--train_batch_size must be at most 65536"),
    ],
)
def test_limits_of_numbers(command, message):
    with pytest.raises(UserError, match=message):
        read(PretrainingConfig, command)


def test_the_largest_seed_is_accepted():
    assert read(PretrainingConfig, f"--seed {2**63 - 1}").run.seed == 2**63 - 1


@pytest.mark.parametrize("value", [1.5, float("nan"), float("inf")])
def test_configurations_made_in_python_are_checked_too(value):
    with pytest.raises(UserError, match="--warmup_proportion"):
        OptimizerFlags(warmup_proportion=value)
    with pytest.raises(UserError, match="--lr must be"):
        OptimizerFlags(lr=float("nan"))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--task_name wnli --data_dir x", "wnli"),
        ("--task_name colla --data_dir x", "colla"),
        ("--task_name cola", "--data_dir"),
        ("--task_name cola --data_dir x --seeds 0", "--seeds"),
    ],
)
def test_tasks_that_do_not_exist(command, message):
    with pytest.raises(UserError, match=message):
        read(GlueConfig, command)


@pytest.mark.parametrize(
    ("words", "graph", "eager"),
    [
        ("", "output", "output_eager"),
        ("--checkpoint_path c", "c", "c"),
        ("--output_dir o --checkpoint_path c", "o", "o"),
        ("--load_from checkpoint --checkpoint_path c", "output", "output_eager"),
        ("--run_name first", "output/first", "output_eager/first"),
        ("--run_name ../up", "output/-up", "output_eager/-up"),
        ("--run_name first --checkpoint_path c", "c", "c"),
    ],
)
def test_the_output_directory_by_default(words, graph, eager):
    assert parse(PretrainingConfig, words.split()).run.output_dir == graph
    assert parse(EagerPretrainingConfig, words.split()).run.output_dir == eager


@pytest.mark.parametrize("steps", ["-1", "0 99999999999999"])
def test_steps_to_save_at_are_checked(steps):
    with pytest.raises(UserError, match="--save_at_steps must be between"):
        parse(PretrainingConfig, f"--save_at_steps {steps}".split())


def test_a_squad_version_is_another_name_of_its_flag():
    both = "--train_file t --do_train --vocab_file v".split()
    assert parse(SquadConfig, [*both, "--squad_version=squadv2"]).features.version_2_with_negative
    assert not parse(SquadConfig, [*both, "--squad_version=squadv1"]).features.version_2_with_negative
    with pytest.raises(UserError, match="squadv1 contradicts --version_2_with_negative True"):
        parse(SquadConfig, [*both, "--squad_version=squadv1", "--version_2_with_negative"])
