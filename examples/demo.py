"""From raw text to a BERT that fills masks, in a few minutes on a laptop's CPU: what `make demo` runs.

The text is the documentation that comes with Python itself (docstrings, comments and help topics of the standard
library), or the user's own with `--text`. Every command is shown before it runs, and can be run by hand.
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
MOST_STEPS, FEWEST_STEPS = 1500, 300
ROWS = 32  # of one update


def main() -> None:
    """Runs the commands one after the other; what an earlier run finished is not done again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--text", type=Path, help="a text file or a directory of them, in place of Python's documentation"
    )
    parser.add_argument("--output_dir", type=Path, default=Path("demo_output"))
    arguments = parser.parse_args()
    out, text = arguments.output_dir, arguments.text
    if text is None:
        text = out / "raw"
        write_python_documentation(text)
    elif not text.exists():
        sys.exit(f"error: OWN_TEXT {text} does not exist: name a text file or a directory of them.")

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
    size, steps = what_fits(flags)
    length = ["--model_size", size, "--max_steps", str(steps), "--loss_print_every_n_iters", "10"]
    python("run_pretraining.py", *flags, *length, "--overwrite_output_dir")
    python("utils/draw_loss_curve.py", run, "--output", out / "loss_curve.png")
    asked = SENTENCES if arguments.text is None else own_sentences(held_out)
    python("run_infer.py", "--model_path", run, "--task", "fill-mask", "--mode", "eager", "--text", *asked)
    summarize(run, out)


def python(script: str, *words: object) -> None:
    """Shows and runs one command of the project, and ends with it where it fails."""
    shown = ["python3", script, *map(str, words)]
    print(f"\n$ {shlex.join(shown)}", flush=True)
    result = subprocess.run([sys.executable, str(ROOT / script), *map(str, words)], check=False)
    if result.returncode:
        sys.exit(result.returncode)


def what_fits(flags: list[object]) -> tuple[str, int]:
    """The model's size and the steps that this machine makes in the minutes we have, after a few steps for measure."""
    for size in ("mini", "tiny"):
        print(f"\nHow fast is this machine with BERT-{size}? A few steps tell.", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            short = ["--model_size", size, "--max_steps", "24", "--loss_print_every_n_iters", "8", "--do_eval", "False"]
            command = [sys.executable, ROOT / "run_pretraining.py", *flags, *short, "--output_dir", scratch]
            subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
            rows = (Path(scratch) / "metrics.jsonl").read_text().splitlines()
        steps = int(TRAINING_SECONDS * json.loads(rows[-1])["throughput"] / ROWS) // 10 * 10
        if steps >= FEWEST_STEPS:
            break
    return size, max(min(steps, MOST_STEPS), 100)


def write_python_documentation(directory: Path) -> None:
    """Python's own documentation as text files, one a package of the standard library."""
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
    """A text's paragraphs, one a line, without examples of code and underlines of headings."""
    parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return [part for part in parts if part.count(" ") > 3 and not part.startswith(">>>")]


def documentation(path: Path) -> Iterator[str]:
    """The docstrings of a Python file, and its comments of several lines."""
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
    """Every twentieth document to `held_out.txt`, the others to `training.txt`."""
    text = "".join(path.read_text(encoding="utf-8").rstrip("\n") + "\n\n" for path in sorted(sentences.iterdir()))
    documents = [document for document in text.split("\n\n") if document.strip()]
    if len(documents) < 40:
        sys.exit(f"error: the text has {len(documents)} documents, and the demo needs 40: give it more text.")
    paths = out / "training.txt", out / "held_out.txt"
    for path, kept in zip(paths, (False, True), strict=True):
        chosen = [document for number, document in enumerate(documents) if (number % 20 == 7) == kept]
        path.write_text("\n\n".join(chosen) + "\n", encoding="utf-8")
    return paths


def own_sentences(held_out: Path) -> list[str]:
    """A few of the user's held-out sentences, with their longest word masked."""
    lines = [line.strip() for line in held_out.read_text(encoding="utf-8").splitlines()]
    fitting = [line for line in lines if 6 <= len(line.split()) <= 20][:4]
    return [line.replace(max(line.split(), key=len), "[MASK]", 1) for line in fitting]


def summarize(run: Path, out: Path) -> None:
    """The figures that matter, and where everything is."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    training = [row["mlm_loss"] for row in rows if "total_loss" in row]
    held_out = [row for row in rows if "eval_mlm_loss" in row][-1]
    print(
        f"\nMasked-LM loss fell from {training[0]:.2f} to {training[-1]:.2f} nats; on held-out text it is "
        f"{held_out['eval_mlm_loss']:.2f} (perplexity {held_out['eval_perplexity']:.0f}, "
        f"accuracy {held_out['eval_mlm_accuracy']:.0%}).\n"
        f"The curve is {out / 'loss_curve.png'}, the model {run / (run / 'latest').read_text().strip()}."
    )


if __name__ == "__main__":
    main()
