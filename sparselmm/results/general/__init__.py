"""Results of generalized models."""
