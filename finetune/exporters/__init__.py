"""Formats that a finished model is written in: one table, and one file for each.

A new format is one file with a class that follows `Exporter`, one entry in `EXPORTERS`, and one test.
"""

from finetune.exporters.agreement import Agreement, Limits
from finetune.exporters.exporter import Exporter, ExportError, export_model
from finetune.exporters.onnx_file import OnnxFile
from finetune.exporters.openvino_model import OpenVinoModel
from finetune.exporters.safetensors_folder import SafetensorsFolder
from finetune.exporters.smp_folder import SmpFolder
from finetune.exporters.timm_backbone import TimmBackbone
from finetune.exporters.torch_program import TorchProgram
from finetune.exporters.web_page import WebPage

EXPORTERS: dict[str, type[Exporter]] = {
    "safetensors": SafetensorsFolder,
    "timm": TimmBackbone,
    "smp": SmpFolder,
    "onnx": OnnxFile,
    "openvino": OpenVinoModel,
    "torch_export": TorchProgram,
    "web": WebPage,
}

__all__ = [
    "EXPORTERS",
    "Agreement",
    "ExportError",
    "Exporter",
    "Limits",
    "OnnxFile",
    "OpenVinoModel",
    "SafetensorsFolder",
    "SmpFolder",
    "TimmBackbone",
    "TorchProgram",
    "WebPage",
    "export_model",
]
