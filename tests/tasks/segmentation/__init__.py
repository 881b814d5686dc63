"""Tests of foveal.tasks.segmentation."""
