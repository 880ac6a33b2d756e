"""The numbers on the hyperprior codec's page are those of the code."""

from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "hyperprior.md"


def test_parameter_counts():
    from stereopsis.compression.hyperprior import PAPER, Hyperprior, HyperpriorConfig

    text = PAGE.read_text(encoding="utf-8")
    for config in (HyperpriorConfig(), HyperpriorConfig(checkerboard=True), PAPER):
        assert f"{sum(parameter.numel() for parameter in Hyperprior(config).parameters()):,}" in text
