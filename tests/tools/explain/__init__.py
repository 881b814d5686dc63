"""Tests of the tools that look into networks."""
