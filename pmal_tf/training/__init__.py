"""Training: recipes, the loop, and the PMAL model."""
