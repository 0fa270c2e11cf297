"""Speed figures, each with its reference in the same process."""
