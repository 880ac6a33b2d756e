"""The Python of the codec's page runs."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "compression.md"


def test_python_blocks_run():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), {})


def test_parameter_counts():
    from stereopsis.compression.hyperprior import PAPER, Hyperprior, HyperpriorConfig

    text = PAGE.read_text(encoding="utf-8")
    for config in (HyperpriorConfig(), HyperpriorConfig(checkerboard=True), PAPER):
        assert f"{sum(parameter.numel() for parameter in Hyperprior(config).parameters()):,}" in text
