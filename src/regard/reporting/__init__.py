"""Reports: records in, one self-contained HTML file out; no torch, no network."""

from regard.reporting.records import (
    ClassScore,
    FileTest,
    ModelDetail,
    ReliabilityBin,
    ReportData,
    Suspect,
)
from regard.reporting.report import render_report, write_report
from regard.reporting.sentences import answer

__all__ = [
    "ClassScore",
    "FileTest",
    "ModelDetail",
    "ReliabilityBin",
    "ReportData",
    "Suspect",
    "answer",
    "render_report",
    "write_report",
]
