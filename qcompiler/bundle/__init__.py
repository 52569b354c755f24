"""Bundles: a compiled model as a folder with a shared library, weights, C header and manifest."""

from .manifest import BufferInfo, Manifest, StepInfo, TensorInfo, ValueInfo
from .runtime import Bundle, load_bundle
from .write import BundleContents, write_bundle

__all__ = [
    "BufferInfo",
    "Bundle",
    "BundleContents",
    "Manifest",
    "StepInfo",
    "TensorInfo",
    "ValueInfo",
    "load_bundle",
    "write_bundle",
]
