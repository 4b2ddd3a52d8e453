"""Tests of the project, by what they test."""
