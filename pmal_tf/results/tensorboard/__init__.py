"""What TensorBoard shows beside the curves of training."""
