"""Baselines without a network: classical jet variables and boosted trees."""
