"""Residual covariance structures: R(phi) in V = R + Z Lambda Lambda'Z'."""
