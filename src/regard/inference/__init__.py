"""Inference: a model from anywhere, images through it, features kept."""

from regard.inference.loaded import LoadedModel, default_preprocess, fresh_model, load_model

__all__ = ["LoadedModel", "default_preprocess", "fresh_model", "load_model"]
