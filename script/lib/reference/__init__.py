"""Files that are made from the code and committed, so that people can read and compare them."""
