"""Tests of networks in 8-bit integers."""
