"""The stages that follow the methods': evaluation and export."""
