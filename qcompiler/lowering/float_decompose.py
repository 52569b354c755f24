from __future__ import annotations


def decompose(model):
    return model
