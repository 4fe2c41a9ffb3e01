"""Networks: what each needs, and how it is run."""
