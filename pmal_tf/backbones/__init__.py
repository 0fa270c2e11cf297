"""Backbones: functional Keras models from images to embeddings."""
