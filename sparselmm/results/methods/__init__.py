"""Methods of a fitted model, one module per kind of question."""
