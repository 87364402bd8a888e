"""Virtual machines for the demo and the tests, and the demo itself."""
