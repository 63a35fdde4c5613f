"""Names and tables as people see them."""
