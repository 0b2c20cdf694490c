"""Flow over gRPC: its task manager and inventory as a client, its operation-run calls as a server."""
