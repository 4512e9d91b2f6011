"""Circuits: graphs of features, found, validated by patching, and drawn. Built on `saedsl`\x27s plans and traces."""
