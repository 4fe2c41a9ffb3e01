"""From counts to columns without leaving the card: the CPU's stages, kernel for kernel."""
