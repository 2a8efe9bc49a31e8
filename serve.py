"""Serves trained BERT models over HTTP: embeddings, filled masks, answers, labels, and a web page to try them."""

from configs.cli import parse, run
from configs.serve import ServeConfig


def main() -> None:
    config = parse(ServeConfig, description=__doc__ or "")
    from serving.server import serve  # imports the framework, which --help and wrong flags do not need

    serve(config)


if __name__ == "__main__":
    run(main)
