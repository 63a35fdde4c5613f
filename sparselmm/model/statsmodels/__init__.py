"""All that exists for statsmodels' sake."""
