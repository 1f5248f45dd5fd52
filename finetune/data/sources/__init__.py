"""Data sources: where images and targets come from, one file per format."""

from finetune.data.records import Source
from finetune.data.sources.csv import CsvSource
from finetune.data.sources.folder import FolderSource
from finetune.data.sources.mask_files import MaskFilesSource
from finetune.data.sources.synthetic import SyntheticSource

# what `data.format` names; the options of a constructor are the settings in conf/data/<format>.yaml
SOURCES: dict[str, type[Source]] = {
    "folder": FolderSource,
    "csv": CsvSource,
    "mask_files": MaskFilesSource,
    "synthetic": SyntheticSource,
}

__all__ = ["SOURCES", "CsvSource", "FolderSource", "MaskFilesSource", "SyntheticSource"]
