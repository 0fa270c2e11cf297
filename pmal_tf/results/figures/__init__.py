"""Pictures of finished runs, one module each, made from run folders only."""
