"""CDK constructs: functions, permissions, encryption, logs, and what starts the workflows."""
