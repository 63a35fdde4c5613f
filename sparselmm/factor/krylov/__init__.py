"""Conjugate gradients on the Schur complement, for designs whose factor is dear or does not fit."""
