"""The live path, in the order of the beam."""
