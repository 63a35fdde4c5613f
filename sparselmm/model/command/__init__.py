"""What the command line does: tables read, records written, options of a family."""
