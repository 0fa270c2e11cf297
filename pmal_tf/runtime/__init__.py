"""What every other room stands on: machines, files, seeds, errors, settings."""
