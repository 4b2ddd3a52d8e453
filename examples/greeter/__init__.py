"""Two services in a mesh of their own: `greeter` asks `greeting` for its words, through proxies."""
