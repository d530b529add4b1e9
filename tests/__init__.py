"""Tests; a package, or else one of that name that an installed distribution brings along would be in its place."""
