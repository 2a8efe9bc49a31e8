"""Serves trained BERT models over HTTP: embeddings, masks, answers, classes, and a page to try them."""

from configs.cli import parse, run
from configs.serve import ServeConfig


def main() -> None:
    config = parse(ServeConfig, description=__doc__ or "")
    from serving.server import serve  # the framework is imported after --help and mistakes in flags

    serve(config)


if __name__ == "__main__":
    run(main)
