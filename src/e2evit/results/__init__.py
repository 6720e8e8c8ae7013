"""Results of evaluations: the record, measuring, comparing, tables."""
