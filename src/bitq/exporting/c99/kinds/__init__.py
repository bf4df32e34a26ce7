"""What numbers come from and what becomes of them: one file for each kind, which has it as data, lowers operators of
PyTorch to it, computes it in NumPy and writes it in C, and registers itself for all of that."""
