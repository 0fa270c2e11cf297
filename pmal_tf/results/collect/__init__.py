"""What run folders hold, averaged and compared."""
