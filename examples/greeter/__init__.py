"""Two services in the mesh: `greeter` asks `greeting` for its words, through their proxies."""
