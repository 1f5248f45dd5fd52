"""What is wrong with images and masks, found by reading each of them once."""

from finetune.data.audit.checks import audit_data
from finetune.data.audit.examination import Examined, examine_all
from finetune.data.audit.findings import SEVERITIES, DataSet, Finding

__all__ = ["SEVERITIES", "DataSet", "Examined", "Finding", "audit_data", "examine_all"]
