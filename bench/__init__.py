"""Virtual machines for the demo and the tests, the demo itself, and the benches."""
