"""``stereopsis models``."""

from __future__ import annotations

from typing import Any

from tyro.conf import Positional

from stereopsis.cli.console import new_table, show_json, show_table


def models(pattern: Positional[str | None] = None, json: bool = False) -> None:
    """List the models, their size, and what is known about their weights; of a single one, its card.

    Args:
        pattern: Only names that match, e.g. hitnet.scenes, or "hitnet*" in quotes.
        json: Print JSON instead of a table.
    """
    from stereopsis.zoo import list_models

    rows = [_row(name) for name in list_models(pattern)]
    if not rows:
        raise ValueError(f"No model is called {pattern}; `stereopsis models` lists those there are.")
    if json:
        show_json(rows)
        return
    if len(rows) == 1:
        _show_card(rows[0])
        return
    table = new_table("model", "parameters")
    for column in ("weights", "licence", "description"):
        table.add_column(column, overflow="fold")
    for row in rows:
        parameters = f"{row['parameters']:,}" if row["parameters"] else "-"
        about = f"{row['description']}; {row['training_time']}" if row["training_time"] else row["description"]
        table.add_row(row["name"], parameters, row["weights"], row["licence"] or "-", about)
    show_table(table)


def _show_card(row: dict[str, Any]) -> None:
    table = new_table("card")
    table.add_column(row["name"], overflow="fold")
    known = {name: value for name, value in row.items() if name not in {"name", "shipped", "metrics"} and value}
    if known.get("parameters"):
        known["parameters"] = f"{row['parameters']:,}"
    for name, value in (known | {f"measured: {name}": value for name, value in row["metrics"].items()}).items():
        text = ", ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(name.replace("_", " "), text)
    show_table(table)


def _row(name: str) -> dict[str, Any]:
    from stereopsis.zoo import get_entry, read_card
    from stereopsis.zoo.weights import SHIPPED

    entry = get_entry(name)
    file = None if entry.weights_file is None else SHIPPED / entry.weights_file
    shipped = file is not None and file.is_file()
    card = read_card(file) if file is not None and shipped else None
    weights = "shipped" if shipped else "import" if entry.official else "none" if entry.needs_weights else "not needed"
    return {
        "name": name,
        "family": entry.family,
        "architecture": entry.architecture,
        "parameters": sum(parameter.numel() for parameter in entry.build().parameters()),
        "weights": weights,
        "shipped": shipped,
        "licence": entry.licence,
        "description": entry.description,
        "training_time": "" if card is None else card.training_time,
        "data": "" if card is None else card.data,
        "metrics": {} if card is None else dict(card.metrics),
        "notes": "" if card is None else card.notes,
    }
