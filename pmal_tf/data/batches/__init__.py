"""From images to the batches of training."""
