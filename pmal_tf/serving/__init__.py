"""SavedModels that answer `unknown`."""
