"""Bundles: a compiled model as a folder with libraries, weights, C header and manifest."""

from .emulate import EmulatedBundle, load_emulated
from .manifest import BufferInfo, Manifest, StepInfo, TensorInfo, ValueInfo
from .runtime import Bundle, load_bundle
from .write import BundleContents, write_bundle

__all__ = [
    "BufferInfo",
    "Bundle",
    "BundleContents",
    "EmulatedBundle",
    "Manifest",
    "StepInfo",
    "TensorInfo",
    "ValueInfo",
    "load_bundle",
    "load_emulated",
    "write_bundle",
]
