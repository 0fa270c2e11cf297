"""The stages of a trial, a file each: `run(trial)` returns files made and facts."""
