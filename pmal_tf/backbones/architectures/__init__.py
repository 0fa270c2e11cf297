"""The backbones, a file each; its function of the same name builds the trunk.

It takes `input_shape`, (H, W, 3) whose H and W may be None, since pooling is global;
`width`, which multiplies every number of channels; and, by keyword, `dropout`, whose
default, a plain number, is that of `--dropout` for this backbone. It returns a
functional model from [batch, H, W, 3] images on the 0-255 scale, of any number type, to
embeddings [batch, D], at least in float32.
"""
