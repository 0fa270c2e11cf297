"""Data sources, open-set splits, and the `tf.data` pipelines over them."""
