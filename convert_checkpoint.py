"""Converts a BERT checkpoint from one format into another."""

from configs import cli
from configs.convert import ConvertConfig


def main() -> None:
    config = cli.parse(ConvertConfig, description=__doc__ or "")
    from conversion import OnnxOptions, read_checkpoint, write_checkpoint  # after --help
    from conversion.growing import extend_positions, grow_vocabulary
    from conversion.layers import keep_layers

    checkpoint = read_checkpoint(
        config.input,
        config.from_format,
        config=config.config_file,
        trust=config.trust_checkpoint,
        allow_partial=config.allow_partial,
    )
    print(f"{config.input}: {checkpoint.architecture} in format {checkpoint.format}\n{checkpoint.report}")
    if config.kept_layers:
        checkpoint = keep_layers(checkpoint, config.kept_layers)
    if config.vocab_file:
        checkpoint = grow_vocabulary(checkpoint, config.vocab_file)
    if config.max_position_embeddings:
        checkpoint = extend_positions(checkpoint, config.max_position_embeddings, config.position_rule)
    write_checkpoint(
        checkpoint,
        config.output,
        config.to_format,
        vocab_file=config.vocab_file,
        overwrite=config.overwrite_output_dir,
        onnx=OnnxOptions(config.onnx_task, config.onnx_precision, config.calibration_path),
    )
    outcome = "read back and equal bit for bit" if config.onnx_precision == "fp32" else "with quantized weights"
    print(f"{config.output}: written in format {config.to_format}, {outcome}")


if __name__ == "__main__":
    cli.run(main)
