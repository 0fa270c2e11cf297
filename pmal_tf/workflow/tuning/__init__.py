"""Choosing hyper-parameters on classes held out of the known ones, with KerasTuner."""
