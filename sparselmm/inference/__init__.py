"""What follows from a minimum: arrays in, arrays out."""
