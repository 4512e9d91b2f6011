"""Circuits: graphs of features, found, validated by patching, and drawn. Built on `saedsl`'s plans and traces.

Import from the modules; graphs are read, exported and drawn without MLX:

    from saedsl.circuits.draw import draw
    from saedsl.circuits.export import export
    from saedsl.circuits.graph import CircuitGraph, Meta, Node

    graph = CircuitGraph(meta=Meta(model="demo", tokens=("The", " capital")))
    graph.add_typed_node(Node.parse("L1.mlp.f42@1"), score=0.8, label="say a capital")
    draw(graph, "circuit.pdf")
    draw(graph, "circuit.html")
    export(graph, "circuit.graphml")
"""
