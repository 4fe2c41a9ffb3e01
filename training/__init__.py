"""Simulation, training, evaluation and export of networks (needs the training extra)."""
