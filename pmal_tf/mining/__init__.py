"""Mining prototypes: robustness, candidates, diversity (Section 4)."""
