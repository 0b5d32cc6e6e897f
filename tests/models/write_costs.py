"""Writes the table of src/regard/models/costs.py: python tests/models/write_costs.py"""

from __future__ import annotations

from pathlib import Path

from regard.models import list_models, model_spec
from regard.models.costs import count_cost

FILE = Path(__file__).parents[2] / "src" / "regard" / "models" / "costs.py"


def main() -> None:
    rows = []
    for name in list_models():
        parameters, gmacs = count_cost(model_spec(name))
        rows.append(f'    "{name}": ({parameters:_}, {gmacs}),\n')
    text = FILE.read_text("utf-8")
    start = text.index("COSTS: dict")
    FILE.write_text(f"{text[:start]}COSTS: dict[str, tuple[int, float]] = {{\n{''.join(rows)}}}\n", "utf-8")


if __name__ == "__main__":
    main()
