"""Figures, one file for each question; matplotlib is imported when the first one is drawn."""
