"""Tests of fixed effects and of whole models, and their degrees of freedom."""
