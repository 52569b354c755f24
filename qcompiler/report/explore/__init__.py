"""The explorer: a bundle's IR after each pass as one HTML page, with what is known about every tensor."""

from qcompiler.report.explore.page import explore

__all__ = ["explore"]
