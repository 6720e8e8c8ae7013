"""Results of evaluations: measure, compare, tabulate."""
