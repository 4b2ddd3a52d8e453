"""Access to Consul, Secrets Manager and ECS; each turns failures into `handlers.core.errors`."""
