"""Take the images of a source as tiles, as `data.tiles` says."""

from collections.abc import Sequence

from finetune.config.errors import ConfigError
from finetune.config.options import Config
from finetune.data import Record
from finetune.data.tiles import check_tiles, with_tiles


def tiled_records(records: Sequence[Record], settings: Config) -> list[list[Record]]:
    """Return the tiles of each record, or the record alone; without `data.tiles`, each is alone.

    Raises:
        ConfigError: `data.tiles` is no size of a tile.
        DataError: an image is no file, or would have too many tiles.
    """
    tiles = settings.get("tiles")
    if tiles is None:
        return [[record] for record in records]
    try:
        check_tiles(tiles)
    except ValueError as error:
        raise ConfigError(f"data.{error}") from error
    return with_tiles(records, tiles)
