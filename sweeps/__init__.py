"""Runs a training command with many settings and finds the best one."""
