"""From settings to stages, and their results in a store."""
