"""One file for each kind of random-effects term a formula or arrays can ask for."""
