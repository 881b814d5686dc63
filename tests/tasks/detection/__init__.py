"""Tests of foveal.tasks.detection."""
