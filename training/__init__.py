"""Training and evaluation: data, the loop, schedules, metrics and recipes."""
