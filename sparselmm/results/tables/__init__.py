"""What methods return: results of their own with labels."""
