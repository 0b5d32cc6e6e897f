"""Reports: records in, one self-contained HTML file out; no torch, no network."""

from regard.reporting.records import (
    ClassScore,
    ColumnScore,
    FileTest,
    LabelScore,
    ModelDetail,
    ReliabilityBin,
    ReportData,
    SliceScore,
    Suspect,
    Unknown,
)
from regard.reporting.report import render_report, write_report
from regard.reporting.sentences import answer

__all__ = [
    "ClassScore",
    "ColumnScore",
    "FileTest",
    "LabelScore",
    "ModelDetail",
    "ReliabilityBin",
    "ReportData",
    "SliceScore",
    "Suspect",
    "Unknown",
    "answer",
    "render_report",
    "write_report",
]
