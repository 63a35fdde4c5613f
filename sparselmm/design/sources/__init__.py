"""Where rows come from: every container of tables, read by columns, whole or in partitions."""
