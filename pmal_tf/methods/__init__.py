"""The methods, a file or folder each: their settings, models, stages and scores."""
