"""Objects as predictions: which are shown, how they are found in images of any size, and written."""

from finetune.inference.instances.instance_predictor import InstancePredictor
from finetune.inference.instances.object_output import ObjectOutput

__all__ = ["InstancePredictor", "ObjectOutput"]
