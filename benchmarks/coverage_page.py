"""Write docs/backbones.md from the table of `coverage.py`: one line per family, and every exception.

python benchmarks/coverage_page.py finetune/catalog/backbones.csv docs/backbones.md
"""

import argparse
import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import timm

from finetune.models import HEADS

POOLING = {head for head, kind in HEADS.items() if kind.takes_pools}
MOST = 3  # different strides or sizes in a cell
PAGE = """# Backbones

Models of timm {timm}, built without weights and run forward and backward on two images of 64 x 96 pixels; those of more
than 60 million parameters on torch's meta device, where shapes and gradients are followed without numbers. A head
receives only the backbone's feature pyramid, and many backbones have pyramids of the same shape, so each head is tried
once for each shape and not once for each backbone. Nothing is trained here, and no pretrained weights are read.
`make coverage` rewrites this page and its table; `finetune list backbones` shows the table.

**{whole:,} of {count:,} backbones work under every head** but {pooling}, which needs the indices of a backbone's own
max-poolings; {pooled} work under that one, too. {further:,} of them, small ones of {families} families, were
tried further: dilated to the stride that each head is made for, and with a state dict of their own, all of which loads
at the settings that a training begins with. The others were tried only without dilation, and loading weights was not
tried.

- *strides*: of the maps that are read; a neck makes of them the pyramid of strides 2 to 32 that heads read.
- *sizes*: what height and width are brought to. Images of any size go in: they are padded to multiples of 32,
  and where that is no size of the model, resampled to the next larger one (`backbone.image_size` chooses it for
  models of a single size).
- *stages*, *blocks*: layer groups that a tuning plan speaks of, with `tuning.layers=stages` or `blocks`; fewest to
  most. All are complete, and begin in the order in which the model runs.

| family | backbones | take every head | strides | sizes | stages | blocks |
|---|---|---|---|---|---|---|
{rows}

## Exceptions

{exceptions}

## Export

Every head traces with `torch.export` at a fixed size, and every head with a batch, height and width that may change:
one program then fits all multiples of 32 pixels from 64 on (32 for `deeplabv3`, `deeplabv3plus`, `fcn`, `pspnet`,
`setr_pup` and `mask_transformer`; 256 for `pan`). Other sizes are padded by the model itself, by a condition that a
program cannot hold. Backbones that timm pads by their size (all named `tf_`) are for programs of one size, unless
`finetune export format=torch_export` makes their padding constant.
`tests/models/test_export.py` compares the programs with the models.
"""
Row = dict[str, str]


def takes_every_head(row: Row) -> bool:
    """Return whether every head works that needs no pooling indices."""
    return set(row["without"].split()) <= POOLING


def family_line(name: str, members: Sequence[Row]) -> str:
    """Return a line of the table of families."""
    built = [row for row in members if row["strides"]]
    cells = (
        f"`{name}`",
        f"{len(members)}",
        f"{sum(map(takes_every_head, members))}",
        *(usual(row[key] for row in built) for key in ("strides", "sizes")),
        *(span([int(row[key]) for row in built]) for key in ("stages", "blocks")),
    )
    return f"| {' | '.join(cells)} |"


def usual(values: Iterable[str]) -> str:
    """Return the most frequent values, and the number of the others.

    >>> usual(["a", "b", "b", "c", "d", "e"])
    'b; a; c; 2 more'
    """
    counted = [value for value, _ in Counter(values).most_common()]
    others = [f"{len(counted) - MOST} more"] if len(counted) > MOST else []
    return "; ".join([*counted[:MOST], *others])


def span(numbers: Sequence[int]) -> str:
    """Return the smallest and the largest number as a text.

    >>> span([5, 3, 4]), span([2, 2]), span([])
    ('3 to 5', '2', '')
    """
    ends = sorted({min(numbers), max(numbers)}) if numbers else []
    return " to ".join(map(str, ends))


def exceptions(rows: Sequence[Row]) -> str:
    """Return the backbones that do not work with some head, grouped by the reason."""
    failing = sorted((row for row in rows if not takes_every_head(row)), key=lambda row: row["why"])
    lines = []
    for why, members in groupby(failing, key=lambda row: row["why"]):
        names = ", ".join(f"`{row['name']}`" for row in members)
        lines.append(f"- {names}: {why}")
    return "\n".join(lines) or "None."


def page(rows: Sequence[Row]) -> str:
    """Return the page."""
    families = groupby(sorted(rows, key=lambda row: (row["family"], row["name"])), key=lambda row: row["family"])
    return PAGE.format(
        timm=timm.__version__,
        whole=sum(map(takes_every_head, rows)),
        count=len(rows),
        pooling=" and ".join(f"`{head}`" for head in sorted(POOLING)),
        further=len(further := [row for row in rows if "weights" in row["tried"].split()]),
        families=len({row["family"] for row in further}),
        pooled=sum(not set(row["without"].split()) & POOLING for row in rows),
        rows="\n".join(family_line(name, list(members)) for name, members in families),
        exceptions=exceptions(rows),
    )


def main() -> None:
    """Read the table and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("page", type=Path)
    options = parser.parse_args()
    with options.table.open(newline="") as file:
        options.page.write_text(page(list(csv.DictReader(file))))


if __name__ == "__main__":
    main()
