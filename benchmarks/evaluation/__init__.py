"""The tables and figures of the paper's evaluation: a module for each, and what they share."""
