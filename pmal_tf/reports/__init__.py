"""Tables and figures, made from the files of run folders only."""
