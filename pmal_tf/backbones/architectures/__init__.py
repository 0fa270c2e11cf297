"""The backbones, a file each; its function of the same name builds the network.

From `input_shape` (H, W, 3), `width` and `dropout` to a functional model from images on
the 0-255 scale to embeddings [batch, D].
"""
