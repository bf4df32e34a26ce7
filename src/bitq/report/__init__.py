"""The report of a run: one HTML page that needs nothing else to be viewed."""

from bitq.report.page import write_report

__all__ = ["write_report"]
