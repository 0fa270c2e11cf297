"""From the bytes of image files to pixels, the same in training and serving."""
