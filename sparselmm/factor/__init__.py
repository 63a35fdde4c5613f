"""A, B and C; the factorization of M and its price."""
