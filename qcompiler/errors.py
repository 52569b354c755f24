"""Errors a user can cause. Each message names the node or file, what was expected, what was found, what to do.

The command line prints the message alone and exits with code 2; anything that is not a `QCompilerError` is a
fault of the compiler and keeps its traceback.
"""

from __future__ import annotations


class QCompilerError(Exception):
    """Base of all errors that come from bad input."""


class ModelError(QCompilerError):
    """The ONNX model cannot be read, is inconsistent, or uses something that cannot be compiled."""


class CalibrationError(QCompilerError):
    """Calibration data is missing, empty, of the wrong name, shape or type, or holds NaN."""


class IRError(QCompilerError):
    """Text of the IR that does not parse, or a module that does not verify."""


class PipelineError(QCompilerError):
    """A pipeline text that does not parse, an unknown pass, a pass whose requirement does not hold."""


class TargetError(QCompilerError):
    """An unknown target, or a tool the target needs and the machine lacks."""


class BundleError(QCompilerError):
    """An artifact that is incomplete, altered, or given inputs that do not fit its manifest."""
