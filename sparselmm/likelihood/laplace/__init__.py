"""Generalized models: families, modes of the random effects, Laplace's and Gauss's integrals.

For ``eta = X beta + Z Lambda u + o`` and the log-likelihoods ``l_i(eta_i)`` of the rows, u is
integrated out around its mode, the minimum of ``h(u) = -sum l + u'u / 2``:

    M = Lambda'Z'W Z Lambda + I,  w = -l'',     deviance = 2 h(u) + log det M

M is factored by the same solver as that of a linear model, with new values on one pattern.
"""
