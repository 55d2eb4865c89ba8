"""Budgets, the rank problem, its exact solution and the Optuna search around it."""
