"""Pretrains a small BERT from raw text and fills masks with it, in a few minutes on a laptop's CPU (`make demo`).

The text is Python's own documentation (docstrings, comments and help topics of the standard library), or your own with
--text. Each command is printed before it runs, so that you can repeat it manually.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SENTENCES = (
    "return the [MASK] of the file .",
    "the first argument must be a [MASK] .",
    "if the file does not [MASK] , an error is raised .",
    "this function returns true if the string is [MASK] .",
)
TRAINING_SECONDS = 240
MAX_STEPS, MIN_STEPS = 1500, 300
ROWS = 32  # per optimizer step


def main() -> None:
    """Run all commands, in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--text", type=Path, help="text file or directory of text files (default: Python's documentation)"
    )
    parser.add_argument(
        "--output_dir", type=Path, default=Path("demo_output"), help="directory for all results (default: demo_output)"
    )
    arguments = parser.parse_args()
    out, text = arguments.output_dir, arguments.text
    if text is None:
        text = out / "raw"
        write_python_documentation(text)
    elif not text.exists():
        sys.exit(f"error: --text {text} (OWN_TEXT of make demo) does not exist: pass a file or a directory of files.")

    sentences, vocab = out / "sentences", out / "vocab.txt"
    python("prepare_data.py", "clean", "--input_file", text, "--output_dir", sentences, "--overwrite_output_dir")
    training, held_out = split_documents(sentences, out)
    python("prepare_data.py", "vocab", "--input_file", training, "--vocab_file", vocab, "--vocab_size", "6000")
    for name, source in (("train", training), ("held_out", held_out)):
        flags = ["--vocab_file", vocab, "--max_seq_length", "64", "--max_predictions_per_seq", "10"]
        flags += ["--dupe_factor", "3" if name == "train" else "1", "--num_shards", "4", "--overwrite_output_dir"]
        python("prepare_data.py", "pretraining", "--input_file", source, "--output_dir", out / name, *flags)
    run = out / "run"
    flags = ["--ofrecord_path", out / "train", "--val_ofrecord_path", out / "held_out", "--output_dir", run]
    flags += ["--train-batch-size", str(ROWS), "--lr", "1e-3", "--max_position_embeddings", "64"]
    size, steps = choose_size(flags)
    length = ["--model_size", size, "--max_steps", str(steps), "--loss_print_every_n_iters", "10"]
    python("run_pretraining.py", *flags, *length, "--overwrite_output_dir")
    python("utils/draw_loss_curve.py", run, "--output", out / "loss_curve.png")
    masked = SENTENCES if arguments.text is None else mask_sentences(held_out)
    python("run_infer.py", "--model_path", run, "--task", "fill-mask", "--mode", "eager", "--text", *masked)
    summarize(run, out)


def python(script: str, *words: object) -> None:
    """Print and run one command of the project; exit if it fails."""
    shown = ["python3", script, *map(str, words)]
    print(f"\n$ {shlex.join(shown)}", flush=True)
    result = subprocess.run([sys.executable, str(ROOT / script), *map(str, words)], check=False)
    if result.returncode:
        sys.exit(result.returncode)


def choose_size(flags: list[object]) -> tuple[str, int]:
    """The model size and the number of steps that this machine can train in `TRAINING_SECONDS`, from a short trial."""
    for size in ("mini", "tiny"):
        print(f"\nMeasuring the speed of BERT-{size} with a few steps …", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            short = ["--model_size", size, "--max_steps", "24", "--loss_print_every_n_iters", "8", "--do_eval", "False"]
            command = [sys.executable, ROOT / "run_pretraining.py", *flags, *short, "--output_dir", scratch]
            subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
            rows = (Path(scratch) / "metrics.jsonl").read_text().splitlines()
        steps = int(TRAINING_SECONDS * json.loads(rows[-1])["throughput"] / ROWS) // 10 * 10
        if steps >= MIN_STEPS:
            break
    return size, max(min(steps, MAX_STEPS), 100)


def write_python_documentation(directory: Path) -> None:
    """Write Python's documentation as text files, one per package of the standard library."""
    directory.mkdir(parents=True, exist_ok=True)
    library = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "test", "tests", "idlelib", "lib2to3"}
    packages: dict[str, list[str]] = {}
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if not skipped & set(parts):
            packages.setdefault(Path(parts[0]).stem, []).extend(documentation(path))
    from pydoc_data import topics

    packages["help_topics"] = list(topics.topics.values())
    for name, texts in packages.items():
        if texts:
            documents = ["\n".join(paragraphs(text)) for text in texts]
            (directory / f"{name}.txt").write_text("\n\n".join(filter(None, documents)), encoding="utf-8")


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text without line breaks, except for code examples and very short ones."""
    parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return [part for part in parts if part.count(" ") > 3 and not part.startswith(">>>")]


def documentation(path: Path) -> Iterator[str]:
    """The docstrings of a Python file and its comments of three or more lines."""
    source = path.read_bytes()
    try:
        tree = ast.parse(source)
        tokens = list(tokenize.tokenize(io.BytesIO(source).readline))
    except (SyntaxError, ValueError, tokenize.TokenError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node)
            if docstring and docstring.count(" ") > 5:
                yield docstring
    comment: list[str] = []
    for token in tokens:
        if token.type == tokenize.COMMENT:
            comment.append(token.string.lstrip("#! "))
        elif token.type != tokenize.NL:
            if len(comment) > 2:
                yield textwrap.dedent("\n".join(comment))
            comment = []


def split_documents(sentences: Path, out: Path) -> tuple[Path, Path]:
    """Write every twentieth document to `held_out.txt` and the others to `training.txt`; return both paths."""
    text = "".join(path.read_text(encoding="utf-8").rstrip("\n") + "\n\n" for path in sorted(sentences.iterdir()))
    documents = [document for document in text.split("\n\n") if document.strip()]
    if len(documents) < 40:
        sys.exit(
            f"error: the text has {len(documents)} documents, but the demo needs 40: use more text. "
            "Blank lines separate documents."
        )
    paths = out / "training.txt", out / "held_out.txt"
    for path, kept in zip(paths, (False, True), strict=True):
        chosen = [document for number, document in enumerate(documents) if (number % 20 == 7) == kept]
        path.write_text("\n\n".join(chosen) + "\n", encoding="utf-8")
    return paths


def mask_sentences(held_out: Path) -> list[str]:
    """A few held-out sentences of medium length, each with its longest word masked."""
    lines = [line.strip() for line in held_out.read_text(encoding="utf-8").splitlines()]
    chosen = [line for line in lines if 6 <= len(line.split()) <= 20][:4]
    return [line.replace(max(line.split(), key=len), "[MASK]", 1) for line in chosen]


def summarize(run: Path, out: Path) -> None:
    """Print the most important metrics and the paths of the results."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    training = [row["mlm_loss"] for row in rows if "total_loss" in row]
    held_out = [row for row in rows if "eval_mlm_loss" in row][-1]
    print(
        f"\nMasked-LM loss fell from {training[0]:.2f} to {training[-1]:.2f} nats; on held-out text it is "
        f"{held_out['eval_mlm_loss']:.2f} (perplexity {held_out['eval_perplexity']:.0f}, "
        f"accuracy {held_out['eval_mlm_accuracy']:.0%}).\n"
        f"Loss curve: {out / 'loss_curve.png'}\nModel: {run / (run / 'latest').read_text().strip()}"
    )


if __name__ == "__main__":
    main()
