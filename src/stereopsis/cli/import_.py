"""``stereopsis import``."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from stereopsis.cli.console import show_json


def import_(checkpoint: Positional[Path], architecture: str, out: Path, json: bool = False) -> None:
    """Convert a checkpoint that others published into a safetensors file for --weights.

    Args:
        checkpoint: The authors' file, e.g. eth3d.pb, anynet_sceneflow.tar or FDKN_8x.
        architecture: Model it belongs to, e.g. hitnet.eth3d, anynet.official or fdkn_x8.official.
        out: File to write, ending in .safetensors.
        json: Print JSON instead of text.
    """
    from stereopsis.cli.options import check_suffix
    from stereopsis.zoo import ModelCard, get_entry, save_weights
    from stereopsis.zoo.importers import import_checkpoint
    from stereopsis.zoo.weights import file_sha256

    check_suffix(out, (".safetensors",), "--out")
    entry = get_entry(architecture)
    model = import_checkpoint(entry.architecture, entry.build(), checkpoint)
    card = ModelCard(
        architecture=entry.architecture,
        config=entry.config_dict(),
        model=entry.name,
        recipe={"imported_from": checkpoint.name, "sha256": file_sha256(checkpoint)},
        licence=entry.licence,
        notes="Weights of the authors, renamed and stored unchanged.",
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    save_weights(out, model, card, storage="float32")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if json:
        show_json({"model": entry.name, "parameters": parameters, "out": str(out)})
        return
    print(f"{out}  {parameters:,} parameters; use it with --model {entry.name} --weights {out}")
